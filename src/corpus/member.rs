//! One string among the members of a JSON object, found fast on most lines.
//!
//! What is found is what `serde_json` finds. Where a line has anything unusual
//! nothing is, and the caller asks `serde_json`: it is the judge of everything
//! that is wrong, and of every value that is not looked for.

use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;

/// The string that is called `field` in the object on a line; the last, if it is
/// there twice. None where anything is unusual: control characters, escapes in
/// names, no such member, another type, an error.
pub fn string(line: &str, field: &str) -> Option<String> {
    // Strings must not hold any; looked for once for all of them.
    let least = line.bytes().fold(u8::MAX, u8::min);
    if least < b' ' {
        return None;
    }
    let mut at = Cursor { rest: line };
    let mut found = None;
    at.expect('{')?;
    loop {
        let name = at.name()?;
        at.expect(':')?;
        match name == field {
            true => found = Some(at.string()?),
            false => at.skip()?,
        }
        if at.expect(',').is_none() {
            break;
        }
    }
    at.expect('}')?;
    at.rest.trim_start_matches(' ').is_empty().then_some(found?)
}

/// What is left of a line.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// Steps over a sign and the blanks before it.
    fn expect(&mut self, sign: char) -> Option<()> {
        let rest = self.rest.trim_start_matches(' ');
        self.rest = rest.strip_prefix(sign)?;
        Some(())
    }

    /// A string without escapes.
    fn name(&mut self) -> Option<&'a str> {
        self.expect('"')?;
        let end = memchr2(b'"', b'\\', self.rest.as_bytes())?;
        let (name, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest.strip_prefix('"')?;
        Some(name)
    }

    fn string(&mut self) -> Option<String> {
        self.expect('"')?;
        let mut text = String::with_capacity(self.rest.len());
        loop {
            let end = memchr2(b'"', b'\\', self.rest.as_bytes())?;
            let (plain, rest) = self.rest.split_at_checked(end)?;
            text.push_str(plain);
            if let Some(rest) = rest.strip_prefix('"') {
                self.rest = rest;
                return Some(text);
            }
            self.rest = rest.get(1..)?;
            text.push(self.escaped()?);
        }
    }

    /// The character that an escape stands for, from behind its backslash.
    fn escaped(&mut self) -> Option<char> {
        let sign = *self.rest.as_bytes().first()?;
        let character = match sign {
            b'n' => '\n',
            b'"' | b'\\' | b'/' => char::from(sign),
            b't' => '\t',
            b'r' => '\r',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => return self.unicode(),
            _ => return None,
        };
        self.rest = self.rest.get(1..)?;
        Some(character)
    }

    /// A character by its number, or by the two of its surrogates.
    fn unicode(&mut self) -> Option<char> {
        let first = self.number()?;
        if let Some(character) = char::from_u32(first.into()) {
            return Some(character);
        }
        self.rest = self.rest.strip_prefix('\\')?;
        let pair = [first, self.number()?];
        char::decode_utf16(pair).next()?.ok()
    }

    fn number(&mut self) -> Option<u16> {
        let digits = self.rest.strip_prefix('u')?.get(..4)?;
        self.rest = self.rest.get(5..)?;
        let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        hexadecimal.then_some(u16::from_str_radix(digits, 16).ok()?)
    }

    /// Steps over a value of any kind.
    fn skip(&mut self) -> Option<()> {
        let values = serde_json::Deserializer::from_str(self.rest);
        let mut values = values.into_iter::<IgnoredAny>();
        values.next()?.ok()?;
        let (value, rest) = self.rest.split_at_checked(values.byte_offset())?;
        self.rest = rest;
        // A value that is ignored may hold half a surrogate pair, which no string does.
        (!escapes_surrogate(value)).then_some(())
    }
}

/// Whether a value has the escape of a surrogate.
fn escapes_surrogate(value: &str) -> bool {
    let mut rest = value.as_bytes();
    while let Some(at) = memchr(b'\\', rest) {
        match rest.get(at + 1..) {
            Some([b'u', b'd' | b'D', ..]) => return true,
            Some([_, after @ ..]) => rest = after,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::string;

    /// The twin: the whole line as the library reads it.
    fn by_library(line: &str) -> Option<String> {
        let value: Value = serde_json::from_str(line).ok()?;
        Some(value.as_object()?.get("text")?.as_str()?.to_owned())
    }

    #[test]
    fn usual_lines_are_read_and_others_left() {
        for (line, expected) in [
            (r#"{"text":"a"}"#, Some("a")),
            (r#" { "id" : [1, {"text": 2}], "text" : "" } "#, Some("")),
            (r#"{"text":"a","text":"b","n":-1.5e3}"#, Some("b")),
            (r#"{"text":"\ud83d\ude00\n\u0041\/"}"#, Some("😀\nA/")),
            (r#"{"text":"\ud83d"}"#, None),
            (r#"{"text":"\ud83d\u0041"}"#, None),
            (r#"{"text":"\ude00\ud83d"}"#, None),
            (r#"{"text":"\u+041"}"#, None),
            (r#"{"text":"\x"}"#, None),
            (r#"{"text":"\"#, None),
            (r#"{"text":"a",}"#, None),
            (r#"{"text":"a" "n":1}"#, None),
            (r#"{"text":"a"}{"#, None),
            (r#"{"n":01,"text":"a"}"#, None),
            (r#"{"n":"\q","text":"a"}"#, None),
            (r#"{"n":"\ud83d","text":"a"}"#, None),
            (r#"{"n":["\uD83D"],"text":"a"}"#, None),
            (r#"{"n":["\\uD83D"],"text":"a"}"#, Some("a")),
            (r#"{"n":["\\\uD83D"],"text":"a"}"#, None),
            (r#"{"text":null}"#, None),
            ("{\"text\":\"a\tb\"}", None),
            ("[]", None),
            ("", None),
        ] {
            assert_eq!(string(line, "text").as_deref(), expected, "{line}");
            if expected.is_some() {
                assert_eq!(by_library(line).as_deref(), expected, "{line}");
            }
        }
    }

    /// Signs that make lines, right and wrong.
    const SIGNS: [&str; 26] = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"text\"",
        "\"text\":",
        "\\",
        "\\n",
        "\\u00e9",
        "\\ud83d",
        "\\ude00",
        "\\u",
        "é",
        "😀",
        " ",
        "\t",
        "1",
        "-0.5e",
        "true",
        "null",
        "x",
        "\"a\\\"b\"",
        "\"n\":",
    ];

    /// Any text, or one that reads like escapes.
    fn text() -> impl Strategy<Value = String> {
        let signs = prop::collection::vec(prop::sample::select(&SIGNS[..]), 0..8);
        prop_oneof![any::<String>(), signs.prop_map(|signs| signs.concat())]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_string_that_is_found_is_the_library_s(
            signs in prop::collection::vec(prop::sample::select(&SIGNS[..]), 0..8),
            tail in prop::collection::vec(prop::sample::select(&SIGNS[..]), 0..3),
        ) {
            for (before, after) in [("", ""), ("{\"text\":\"", "\"}"), ("{\"n\":", ",\"text\":\"a\"}")] {
                let line = format!("{before}{}{after}{}", signs.concat(), tail.concat());
                if let Some(found) = string(&line, "text") {
                    prop_assert_eq!(Some(found), by_library(&line), "{}", line);
                }
            }
        }

        #[test]
        fn every_text_is_found(text in text(), other in text()) {
            let line = serde_json::json!({"a": other, "text": text, "z": [other]}).to_string();
            prop_assert_eq!(string(&line, "text"), Some(text));
        }
    }
}
