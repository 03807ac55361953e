//! Damage: what disks, cables and people do to files, from a seed.

use serde_json::{Value, json};

/// Numbers that come one after the other from a seed; SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// One of some things.
    pub fn of<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    /// A stretch of something `len` long, mostly short.
    fn stretch(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len);
        let most = match self.below(3) {
            0 => 8,
            1 => 64,
            _ => len,
        };
        let length = 1 + self.below(most.min(len - start));
        start..(start + length).min(len)
    }
}

/// Numbers that length fields are feared to hold.
const EDGES: [u64; 14] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    i64::MAX as u64,
    u64::MAX,
];

/// Words that parsers know.
const WORDS: [&[u8]; 18] = [
    b"\0",
    b"\n",
    b"\r",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b"null",
    b"-1",
    b"1e999",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"PAR1",
    b"\x28\xb5\x2f\xfd",
    b"\x1f\x8b\x08",
    b"\\ud800",
];

/// What numbers in text are replaced by.
const NUMBERS: [&str; 9] = [
    "-1",
    "0",
    "1",
    "255",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1e400",
    "0.5",
];

/// Damages `good` one to three times; says how.
pub fn mutate(good: &[u8], random: &mut Random) -> (String, Vec<u8>) {
    let mut bytes = good.to_vec();
    let mut how = Vec::new();
    for _ in 0..1 + random.below(3) {
        how.push(once(&mut bytes, random));
        if bytes.is_empty() {
            break;
        }
    }
    (how.join(", "), bytes)
}

fn once(bytes: &mut Vec<u8>, random: &mut Random) -> String {
    let len = bytes.len();
    let at = random.below(len);
    match random.below(14) {
        0 | 1 => {
            let bit = random.below(8);
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at} flipped")
        }
        2 => {
            bytes[at] = *random.of(&[0, 1, 0x7f, 0x80, 0xff, b'"', b'9', b'{']);
            format!("byte {at} set to {}", bytes[at])
        }
        3 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        4 => {
            let stretch = random.stretch(len);
            let copy = bytes[stretch.clone()].to_vec();
            bytes.splice(at..at, copy);
            format!("{stretch:?} again at {at}")
        }
        5 => {
            let stretch = random.stretch(len);
            bytes.drain(stretch.clone());
            format!("{stretch:?} removed")
        }
        6 => {
            let (a, b) = (random.stretch(len), random.stretch(len));
            let n = a.len().min(b.len());
            (0..n).for_each(|i| bytes.swap(a.start + i, b.start + i));
            format!("{n} bytes at {} and {} swapped", a.start, b.start)
        }
        7 => {
            let word = *random.of(&WORDS);
            bytes.splice(at..at, word.iter().copied());
            format!("{word:?} put in at {at}")
        }
        8 | 9 => {
            let width = *random.of(&[1usize, 2, 4, 8]);
            let edge = *random.of(&EDGES);
            let end = (at + width).min(len);
            bytes[at..end].copy_from_slice(&edge.to_le_bytes()[..end - at]);
            format!("{width} bytes at {at} made {edge}")
        }
        10 => {
            let end = (at + 4096).min(len);
            bytes[at..end].fill(0);
            format!("{at}..{end} zeroed")
        }
        11 => number(bytes, at, random),
        12 => string(bytes, at, random),
        _ => {
            let extra = 1 + random.below(64);
            bytes.extend((0..extra).map(|_| random.next() as u8));
            format!("{extra} bytes appended")
        }
    }
}

/// Replaces the next number in text.
fn number(bytes: &mut Vec<u8>, from: usize, random: &mut Random) -> String {
    let digits = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = bytes[from..].iter().position(digits).map(|at| from + at) else {
        bytes.clear();
        return "emptied".into();
    };
    let end = bytes[start..].iter().position(|byte| !digits(byte));
    let end = end.map_or(bytes.len(), |length| start + length);
    let number = *random.of(&NUMBERS);
    bytes.splice(start..end, number.bytes());
    format!("the number at {start} made {number}")
}

/// Replaces the next string in text by another of the file, or by none.
fn string(bytes: &mut Vec<u8>, from: usize, random: &mut Random) -> String {
    let quoted = |from: usize| {
        let start = from + bytes[from..].iter().position(|byte| *byte == b'"')? + 1;
        let length = bytes[start..].iter().position(|byte| *byte == b'"')?;
        Some(start..start + length)
    };
    let Some(place) = quoted(from) else {
        return "untouched".into();
    };
    let other = quoted(random.below(bytes.len())).filter(|_| random.below(3) != 0);
    let other = other.map_or(Vec::new(), |other| bytes[other].to_vec());
    let shown = String::from_utf8_lossy(&other).into_owned();
    bytes.splice(place.clone(), other);
    format!("the string at {} made {shown:?}", place.start)
}

/// Changes one to three values of sound JSON; says how.
pub fn mutate_json(good: &Value, random: &mut Random) -> (String, Vec<u8>) {
    let mut json = good.clone();
    let mut how = Vec::new();
    for _ in 0..1 + random.below(3) {
        let mut pointers = Vec::new();
        collect(&json, String::new(), &mut pointers);
        let pointer = random.of(&pointers).clone();
        let value = match random.below(3) {
            // Another value of the file, or one that nobody expects.
            0 => json
                .pointer(random.of::<String>(&pointers))
                .cloned()
                .unwrap_or_default(),
            _ => random.of(&strange()).clone(),
        };
        how.push(format!("{pointer:?} made {:.60}", value.to_string()));
        if let Some(place) = json.pointer_mut(&pointer) {
            *place = value;
        }
    }
    (
        how.join(", "),
        serde_json::to_vec(&json).unwrap_or_default(),
    )
}

fn collect(json: &Value, at: String, pointers: &mut Vec<String>) {
    match json {
        Value::Object(members) => {
            for (key, value) in members {
                let key = key.replace('~', "~0").replace('/', "~1");
                collect(value, format!("{at}/{key}"), pointers);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                collect(value, format!("{at}/{index}"), pointers);
            }
        }
        _ => {}
    }
    pointers.push(at);
}

/// Values that nobody expects.
fn strange() -> Vec<Value> {
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(0),
        json!(1),
        json!(1e308),
        json!(16_777_216),
        json!(4_294_967_295u64),
        json!(u64::MAX),
        json!(""),
        json!(" "),
        json!("a"),
        json!("\u{0}"),
        json!("("),
        json!("(?=(a+)+b)"),
        json!("."),
        json!("\\s*"),
        json!("a".repeat(5000)),
        json!([]),
        json!({}),
        json!([[]]),
        json!([["a", "a"]]),
        json!({ "": 0 }),
        json!({ "a": 0, "b": 0 }),
    ]
}
