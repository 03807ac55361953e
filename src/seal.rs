//! JSON files that tell when a byte of them was changed.
//!
//! The last field of the object, `seal`, is the BLAKE3 of all bytes before the comma
//! that ends the field before it.

use serde::Serialize;

use crate::digest::Digest;

/// What stands before the digits of the seal: the last field of the object.
const BEFORE: &str = ",\n  \"seal\": \"";
/// What stands after them: the end of the file.
const AFTER: &str = "\"\n}\n";

/// Why the bytes are not those that were sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// They do not end in a seal.
    NoSeal,
    /// They are others.
    Changed {
        /// The seal.
        expected: String,
        /// The digest that the bytes have.
        found: Digest,
    },
}

/// The file of `value`, an object with at least one field. Equal values give equal bytes.
pub fn seal(value: &impl Serialize) -> Result<String, serde_json::Error> {
    let json = serde_json::to_string_pretty(value)?;
    let body = json.strip_suffix("\n}").unwrap_or(&json);
    let seal = Digest::of(body.as_bytes());
    Ok(format!("{body}{BEFORE}{seal}{AFTER}"))
}

/// The JSON that was sealed, without the seal.
pub fn open(bytes: &[u8]) -> Result<String, Broken> {
    let text = std::str::from_utf8(bytes).map_err(|_| Broken::NoSeal)?;
    let (body, expected) = split(text).ok_or(Broken::NoSeal)?;
    let found = Digest::of(body.as_bytes());
    match found.to_string() == expected {
        true => Ok(format!("{body}\n}}")),
        false => Err(Broken::Changed {
            expected: expected.into(),
            found,
        }),
    }
}

/// What the seal covers, and its digits.
fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_suffix(AFTER)?;
    let (rest, seal) = text.split_at_checked(text.len().checked_sub(64)?)?;
    Some((rest.strip_suffix(BEFORE)?, seal))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_was_sealed_opens_and_every_changed_byte_is_found() {
        let value = json!({ "unit": 3, "of": [1, 2] });
        let text = seal(&value).unwrap();
        let whole: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(whole["unit"], 3);
        assert_eq!(
            serde_json::from_str::<Value>(&open(text.as_bytes()).unwrap()).unwrap(),
            value
        );
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            assert!(open(&changed).is_err(), "byte {at}");
            assert!(open(&text.as_bytes()[..at]).is_err(), "cut at {at}");
        }
    }
}
