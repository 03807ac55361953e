//! One string among the members of a JSON object, found fast on most lines.
//!
//! What is found is what `serde_json` finds. Where a line has anything unusual
//! nothing is, and the caller asks `serde_json`: it is the judge of everything
//! that is wrong, and of every value that is not looked for.

use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;

use super::unescape::unescape;

/// The string that is called `field` in the object on a line; the last, if it is
/// there twice. None where anything is unusual: control characters, escapes in
/// names, no such member, another type, an error.
pub fn string(line: &str, field: &str) -> Option<String> {
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
        name.bytes().all(|byte| b' ' <= byte).then_some(name)
    }

    fn string(&mut self) -> Option<String> {
        self.expect('"')?;
        let (text, rest) = unescape(self.rest, unicode)?;
        self.rest = rest;
        Some(text)
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

/// A character by its number, or by the two of its surrogates, from its `u` on; and what
/// stands behind.
fn unicode(escape: &str) -> Option<(char, &str)> {
    let (first, rest) = number(escape)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, rest));
    }
    let (second, rest) = number(rest.strip_prefix('\\')?)?;
    let character = char::decode_utf16([first, second]).next()?.ok()?;
    Some((character, rest))
}

fn number(escape: &str) -> Option<(u16, &str)> {
    let (digits, rest) = escape.strip_prefix('u')?.split_at_checked(4)?;
    let hexadecimal = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let number = u16::from_str_radix(digits, 16).ok()?;
    hexadecimal.then_some((number, rest))
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

    /// Any text, or one that reads like escapes, of some blocks too.
    fn text() -> impl Strategy<Value = String> {
        let signs = |most| prop::collection::vec(prop::sample::select(&SIGNS[..]), 0..most);
        let joined = |signs: Vec<&str>| signs.concat();
        let plain = (0..200usize, signs(4), 0..200usize)
            .prop_map(|(a, signs, b)| format!("{0:a$}{1}{0:b$}", "x", signs.concat()));
        prop_oneof![
            any::<String>(),
            signs(8).prop_map(joined),
            signs(200).prop_map(joined),
            plain,
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn a_string_that_is_found_is_the_library_s(
            text in text(),
            tail in prop::collection::vec(prop::sample::select(&SIGNS[..]), 0..3),
        ) {
            for (before, after) in [("", ""), ("{\"text\":\"", "\"}"), ("{\"n\":", ",\"text\":\"a\"}")] {
                let line = format!("{before}{text}{after}{}", tail.concat());
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
