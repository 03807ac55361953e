//! TensorBoard's event file, read here by the format's own words and nothing of the writer's.

use std::collections::BTreeMap;

use super::*;

/// One event: seconds, step, the version or numbers by name.
#[derive(Debug, Default, PartialEq)]
struct Event {
    seconds: f64,
    step: u64,
    version: String,
    scalars: BTreeMap<String, f32>,
}

/// CRC-32C by its table of remainders, then masked as `lib/hash/crc32c.h` of TensorFlow does.
fn masked(bytes: &[u8]) -> u32 {
    let remainder = |byte: u32| (0..8).fold(byte, |n, _| (n >> 1) ^ ((n & 1) * 0x82f6_3b78));
    let table: Vec<u32> = (0..256).map(remainder).collect();
    let mut crc = u32::MAX;
    for byte in bytes {
        crc = table[(crc.to_le_bytes()[0] ^ byte) as usize] ^ (crc >> 8);
    }
    let crc = !crc;
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// The records of a file, both checksums of each proved.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap());
        let end = 12 + usize::try_from(length).unwrap();
        assert_eq!(u32_at(bytes, 8), masked(&bytes[..8]), "of a length");
        assert_eq!(u32_at(bytes, end), masked(&bytes[12..end]), "of a record");
        records.push(&bytes[12..end]);
        bytes = &bytes[end + 4..];
    }
    records
}

/// The fields of a protocol buffer: number, and its bytes or its number as bytes.
fn fields(bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let length = 1 + bytes.iter().position(|byte| *byte < 0x80).unwrap();
        let (own, rest) = bytes.split_at(length);
        *bytes = rest;
        let parts = own.iter().rev();
        parts.fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let tag = varint(&mut rest);
        let size = match tag & 7 {
            0 => {
                found.push((tag >> 3, varint(&mut rest).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut rest)).unwrap(),
            5 => 4,
            other => panic!("wire type {other}"),
        };
        let (own, after) = rest.split_at(size);
        found.push((tag >> 3, own.to_vec()));
        rest = after;
    }
    found
}

/// `Event`, `Summary` and `Summary.Value` of TensorFlow's protocol buffers.
fn event(bytes: &[u8]) -> Event {
    let mut event = Event::default();
    for (number, value) in fields(bytes) {
        match number {
            1 => event.seconds = f64::from_le_bytes(value.try_into().unwrap()),
            2 => event.step = u64::from_le_bytes(value.try_into().unwrap()),
            3 => event.version = String::from_utf8(value).unwrap(),
            5 => {
                for (number, value) in fields(&value) {
                    assert_eq!(number, 1, "a summary has values alone");
                    let scalar: BTreeMap<u64, Vec<u8>> = fields(&value).into_iter().collect();
                    let name = String::from_utf8(scalar[&1].clone()).unwrap();
                    let value = f32::from_le_bytes(scalar[&2].clone().try_into().unwrap());
                    event.scalars.insert(name, value);
                }
            }
            other => panic!("field {other}"),
        }
    }
    event
}

/// What the metrics say that the file must tell.
#[expect(
    clippy::cast_possible_truncation,
    reason = "events are single precision"
)]
fn expected(folder: &Path) -> Vec<Event> {
    let mut events = vec![Event {
        version: "brain.Event:2".into(),
        ..Event::default()
    }];
    let mut seconds = 0.0;
    for line in record::read(folder).unwrap() {
        let scalars = match &line {
            Line::Train(line) => {
                seconds += (line.data_wait_ms + line.step_ms) / 1e3;
                vec![
                    ("train/loss", line.loss),
                    ("train/lr", line.lr),
                    ("train/grad_norm", line.grad_norm),
                    ("train/tokens_per_s", line.tokens_per_s),
                ]
            }
            Line::Validation(line) => vec![("validation/loss", line.loss)],
            Line::Anomaly(_) => continue,
        };
        let scalars = scalars.into_iter();
        events.push(Event {
            seconds,
            step: line.step(),
            scalars: scalars
                .map(|(name, value)| (name.into(), value as f32))
                .collect(),
            version: String::new(),
        });
    }
    events
}

/// Where TensorBoard looks: the one file, which it knows by its name.
fn told(folder: &Path) -> Vec<Event> {
    let files = fs::list(&folder.join("tensorboard")).unwrap();
    let [file] = files.as_slice() else {
        panic!("one file: {files:?}")
    };
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("events.out.tfevents."), "{name}");
    let bytes = fs::read(file).unwrap();
    records(&bytes).into_iter().map(event).collect()
}

/// As every file that TensorFlow writes begins: a record of 24 bytes.
#[test]
fn the_reader_is_right_about_checksums() {
    assert_eq!(masked(&24u64.to_le_bytes()), 0x224b_7fa3);
}

#[test]
fn events_are_the_metrics_at_the_seconds_of_training() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.tensorboard = true;
    let stop = Stop::default();
    run(&job, &at(4, || stop.request()), &stop).unwrap();
    assert_eq!(told(folder.path()), expected(folder.path()));
    finish(&job);
    let told = told(folder.path());
    assert_eq!(told, expected(folder.path()));
    // Twelve steps and four validation losses behind the version.
    assert_eq!(told.len(), 17);
    assert!(told.is_sorted_by(|a, b| a.seconds <= b.seconds));
    assert!(0.0 < told[1].seconds && told[1].seconds < told[16].seconds);
}
