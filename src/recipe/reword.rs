//! Serde's messages in the words of a recipe.

use super::diagnose::{did_you_mean, list};

/// A message for a person.
pub(super) struct Reworded {
    /// What is wrong.
    pub message: String,
    /// What in the value that the parser blames is to blame.
    pub culprit: Culprit,
    /// What to do about it.
    pub hint: Option<String>,
}

/// What exactly is wrong inside the value that the parser blames.
pub(super) enum Culprit {
    /// The key of that name.
    Key(String),
    /// The string or number written so.
    Text(String),
    /// Cannot be told.
    Unknown,
}

/// Rewords the message of a failed deserialization at `path`.
pub(super) fn reword(message: &str, path: &str) -> Reworded {
    let place = match path {
        "" => String::new(),
        _ => format!(" in `{path}`"),
    };
    if let Some((name, known)) = split_unknown(message, "unknown field ") {
        return Reworded {
            message: format!("unknown key `{name}`{place}"),
            hint: did_you_mean(&name, &known),
            culprit: Culprit::Key(name),
        };
    }
    if let Some((name, known)) = split_unknown(message, "unknown variant ") {
        return Reworded {
            message: format!(
                "unknown value `{name}`{place}, expected one of {}",
                list(&known)
            ),
            hint: did_you_mean(&name, &known).filter(|hint| hint.starts_with("did")),
            culprit: Culprit::Text(name),
        };
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        return plain(format!("missing key {name}{place}"));
    }
    if message.contains("untagged enum Count") {
        let expected = "a number, a list of numbers or `{ min = .., max = .. }`";
        return plain(format!(
            "wrong number of pauses{place}, expected {expected}"
        ));
    }
    if let Some((found, expected)) = split_expected(message) {
        return Reworded {
            message: format!(
                "expected {}{place}, found {}",
                expectation(expected),
                value(found)
            ),
            culprit: literal(found).map_or(Culprit::Unknown, Culprit::Text),
            hint: None,
        };
    }
    if message == "wanted string or table" {
        return plain(format!("expected a string{place}"));
    }
    plain(format!("{message}{place}"))
}

/// Rewords the message of a text that is no TOML.
pub(super) fn syntax(message: &str) -> String {
    let message = match message {
        _ if message.contains("literal string") => "a value is missing, or a string has no quotes",
        _ => message,
    };
    format!("this is no TOML: {message}")
}

fn plain(message: String) -> Reworded {
    Reworded {
        message,
        culprit: Culprit::Unknown,
        hint: None,
    }
}

/// Takes "unknown field `x`, expected one of `a`, `b`" apart.
fn split_unknown(message: &str, start: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix(start)?;
    let mut names = rest.split('`').skip(1).step_by(2).map(String::from);
    Some((names.next()?, names.collect()))
}

/// Takes "invalid type: <found>, expected <expected>" apart.
fn split_expected(message: &str) -> Option<(&str, &str)> {
    let rest = ["invalid type: ", "invalid value: ", "invalid length "]
        .iter()
        .find_map(|start| message.strip_prefix(start))?;
    rest.rsplit_once(", expected ")
}

fn expectation(expected: &str) -> String {
    let words = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "path string" => "a path",
        "an array of length 2" => "a list of 2 numbers",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("internally tagged enum Policy") => {
            "a table with the key `policy`"
        }
        _ => expected,
    };
    words.to_string()
}

fn value(found: &str) -> String {
    if let Some(text) = literal(found) {
        return match found.starts_with("string ") {
            true => format!("the string \"{text}\""),
            false => text,
        };
    }
    match found {
        "sequence" => "a list".into(),
        "map" => "a table".into(),
        _ => found.into(),
    }
}

/// What the recipe literally wrote, of "string \"x\"", "integer `3`" and their like.
fn literal(found: &str) -> Option<String> {
    let (kind, text) = found.rsplit_once(['"', '`']).and_then(|(rest, tail)| {
        let opening = rest.find(['"', '`'])?;
        tail.is_empty()
            .then(|| (rest.get(..opening), rest.get(opening + 1..)))
    })?;
    match kind?.trim() {
        "string" | "integer" | "floating point" | "boolean" => text.map(String::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_serde_become_messages_for_people() {
        let check = |message: &str, expected: &str| {
            assert_eq!(reword(message, "a.b").message, expected);
        };
        check(
            "unknown variant `x`, expected `p` or `q`",
            "unknown value `x` in `a.b`, expected one of `p`, `q`",
        );
        check("missing field `x`", "missing key `x` in `a.b`");
        check(
            "invalid type: string \"x, expected `y`\", expected u64",
            "expected a whole number of 0 or more in `a.b`, found the string \"x, expected `y`\"",
        );
        check(
            "invalid value: integer `-1`, expected u64",
            "expected a whole number of 0 or more in `a.b`, found -1",
        );
        check(
            "invalid type: sequence, expected struct Pack",
            "expected a table in `a.b`, found a list",
        );
        check("something new", "something new in `a.b`");
    }
}
