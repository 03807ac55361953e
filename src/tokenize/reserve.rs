//! Reserved tokens: added once, each a single special id of its own.

use serde_json::{Value, json};
use tokenizers::AddedToken;

use super::fast::Family;
use super::tokens::Tokens;
use super::{Config, Error, PauseTokens, SpecialText, VALUES_MAX, WORD_LETTERS_MAX};
use crate::token::{Extra, Reserved, TokenId};

/// A `tokenizer.json` that holds the reserved tokens.
pub struct Added {
    /// What the file holds.
    pub json: Value,
    /// The file.
    pub bytes: Vec<u8>,
    /// Their ids.
    pub reserved: Reserved,
    /// Those that the model's vocabulary had as words: text may yield them.
    pub unproved: Vec<Name>,
}

/// A reserved token.
pub struct Name {
    /// `pause`, `end` or `pad`.
    pub role: &'static str,
    /// How it is written.
    pub token: String,
    /// Its id.
    pub id: u32,
}

/// Reads the JSON and refuses what would make ids random.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    check_count(bytes)?;
    let json: Value = serde_json::from_slice(bytes).map_err(Error::Json)?;
    let letters = json.pointer("/model/max_input_chars_per_word");
    if let Some(found) = letters.filter(|value| {
        let letters = value.as_u64();
        letters.is_some_and(|letters| WORD_LETTERS_MAX < letters)
    }) {
        return Err(Error::Field {
            field: "model.max_input_chars_per_word",
            expected: "at most 4096",
            found: found.to_string(),
        });
    }
    let dropout = json.pointer("/model/dropout");
    if let Some(found) = dropout.filter(|value| !value.is_null() && value.as_f64() != Some(0.0)) {
        return Err(Error::Field {
            field: "model.dropout",
            expected: "no dropout, which makes ids random",
            found: found.to_string(),
        });
    }
    match json {
        Value::Object(_) => Ok(json),
        other => Err(Error::Field {
            field: "tokenizer.json",
            expected: "an object",
            found: other.to_string().chars().take(40).collect(),
        }),
    }
}

fn check_count(bytes: &[u8]) -> Result<(), Error> {
    // Each value but one needs a mark, and each mark a byte.
    if bytes.len() < VALUES_MAX {
        return Ok(());
    }
    match count_values(bytes) {
        ..=VALUES_MAX => Ok(()),
        values => Err(Error::Field {
            field: "tokenizer.json",
            expected: "at most 4194304 values",
            found: values.to_string(),
        }),
    }
}

/// How many values the JSON holds, without building them: one before each comma,
/// one after each opening bracket, and the whole.
fn count_values(bytes: &[u8]) -> usize {
    let (mut values, mut quoted, mut escaped) = (1, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' | b'[' | b'{' if !quoted => values += 1,
            _ => {}
        }
    }
    values
}

/// Adds the reserved tokens of `config` where they are missing.
pub fn add(mut json: Value, config: &Config, family: Option<&Family>) -> Result<Added, Error> {
    let extra = config.pause_tokens.names();
    let roles: Vec<(&'static str, &String)> = [
        ("pause", &config.pause),
        ("end", &config.end),
        ("pad", &config.pad),
    ]
    .into_iter()
    .chain(extra.iter().map(|name| ("extra pause", name)))
    .collect();
    check_names(&roles)?;
    for field in ["truncation", "padding"] {
        set(&mut json, field, Value::Null);
    }
    let numbered = number(&json, &roles, family)?;
    let mut ids = numbered.ids;
    let missing = |(_, token): &(&u32, &&String)| numbered.missing.contains(token);
    let names = || roles.iter().map(|(_, token)| token);
    for (id, token) in ids.iter().zip(names()).filter(missing) {
        insert(&mut json, token, *id);
    }
    if numbered.gaps {
        // The vocabulary has gaps. Whoever reads the file gives new tokens ids from its
        // size on, whatever ids it lists: those count.
        let bytes = || serde_json::to_vec(&json).map_err(Error::Json);
        ids = ids_of(&Tokens::new(&json, family, bytes)?, &roles)?;
        for (id, token) in ids.iter().zip(names()).filter(missing) {
            insert(&mut json, token, *id);
        }
    }
    let reserved = reserved(&ids, config.pause_tokens)?;
    let unproved = (roles.iter().zip(ids))
        .filter(|((role, _), _)| numbered.words.contains(role))
        .map(|((role, token), id)| Name {
            role,
            token: (*token).clone(),
            id,
        })
        .collect();
    let mut bytes = serde_json::to_vec_pretty(&json).map_err(Error::Json)?;
    bytes.push(b'\n');
    check_count(&bytes)?;
    Ok(Added {
        json,
        bytes,
        reserved,
        unproved,
    })
}

/// What becomes of the reserved tokens in a vocabulary.
struct Numbered<'a> {
    /// The ids of all of them.
    ids: Vec<u32>,
    /// Those that were not special before.
    missing: Vec<&'a String>,
    /// The roles of those that were words of the vocabulary.
    words: Vec<&'static str>,
    /// Whether some ids below the largest are nobody's.
    gaps: bool,
}

/// Gives each of the reserved tokens its id.
fn number<'a>(
    json: &Value,
    roles: &[(&'static str, &'a String)],
    family: Option<&Family>,
) -> Result<Numbered<'a>, Error> {
    // Indented as such files mostly are, so that an error names the line.
    let indented = || serde_json::to_vec_pretty(json).map_err(Error::Json);
    let mut tokens = Tokens::new(json, family, indented)?;
    tokens.vocab_size()?;
    let before = tokens.added();
    let is_special = |token: &str| before.values().any(|t| t.special && t.content == token);
    let is_word = |token: &String| tokens.id(token).is_some() && !is_special(token);
    let words = (roles.iter())
        .filter(|(_, token)| is_word(token))
        .map(|(role, _)| *role)
        .collect();
    let missing: Vec<&String> = (roles.iter())
        .map(|(_, token)| *token)
        .filter(|token| !is_special(token))
        .collect();
    let special = |token: &&String| AddedToken::from(token.as_str(), true);
    tokens.add_special(missing.iter().map(special).collect(), indented)?;
    Ok(Numbered {
        ids: ids_of(&tokens, roles)?,
        missing,
        words,
        gaps: tokens.vocab_size()? as usize != tokens.count(),
    })
}

/// The reserved ids: pause, end, padding, and extra pauses that follow one another.
fn reserved(ids: &[u32], extra: PauseTokens) -> Result<Reserved, Error> {
    let (basic, more) = ids.split_at_checked(3).unwrap_or_default();
    let [pause, end, pad] = basic else {
        return Err(Error::Library("it did not add the reserved tokens".into()));
    };
    let first = more.first().copied().unwrap_or_default();
    if let Some((expected, found)) = (first..).zip(more).find(|(expected, id)| expected != *id) {
        return Err(Error::Field {
            field: "added_tokens",
            expected: "extra pause tokens whose ids follow one another",
            found: format!("id {found} where {expected} should be"),
        });
    }
    Ok(Reserved {
        pause: TokenId(*pause),
        end: TokenId(*end),
        pad: TokenId(*pad),
        extra: Extra {
            first: TokenId(first),
            distinct: extra.distinct,
            delimiters: extra.delimiters,
        },
    })
}

/// Checks that each reserved id is a special token, and no other token's id.
pub fn check(tokens: &Tokens, reserved: Reserved) -> Result<(), Error> {
    let basic = [
        ("pause", reserved.pause),
        ("end", reserved.end),
        ("pad", reserved.pad),
    ];
    let extra = reserved.extra.ids().map(|id| ("extra pause", id));
    let roles: Vec<(&'static str, TokenId)> = basic.into_iter().chain(extra).collect();
    let added = tokens.added();
    for (index, (role, id)) in roles.iter().copied().enumerate() {
        let wrong = |found: String| Error::NotReserved {
            role,
            id: id.0,
            found,
        };
        let token = match added.get(&id.0) {
            Some(token) if token.special => &token.content,
            Some(token) => return Err(wrong(format!("`{}` is not special", token.content))),
            None => return Err(wrong("no added token has it".into())),
        };
        if let Some(other) = tokens.other_of(id.0, token) {
            return Err(wrong(format!("`{other}` has it too")));
        }
        if let Some((first, _)) = roles.iter().take(index).find(|(_, other)| *other == id) {
            return Err(Error::SameToken {
                first,
                second: role,
                token: token.clone(),
            });
        }
    }
    Ok(())
}

/// The ids that encoded text must not hold, in order.
///
/// Always the reserved ones; in ordinary text every special one, except the
/// token for unknown text, which is what such text yields.
pub fn barred(tokens: &Tokens, json: &Value, reserved: Reserved, special: SpecialText) -> Vec<u32> {
    let unknown = match json.pointer("/model/unk_token").and_then(Value::as_str) {
        Some(token) => tokens.id(token).map(u64::from),
        None => json.pointer("/model/unk_id").and_then(Value::as_u64),
    };
    let mut ids = vec![reserved.pause.0, reserved.end.0, reserved.pad.0];
    ids.extend(reserved.extra.ids().map(|id| id.0));
    if special == SpecialText::Ordinary {
        let added = tokens.added();
        let special = added.iter().filter(|(_, token)| token.special);
        ids.extend(
            special
                .map(|(id, _)| *id)
                .filter(|id| Some(u64::from(*id)) != unknown),
        );
    }
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn check_names(roles: &[(&'static str, &String)]) -> Result<(), Error> {
    for (index, (role, token)) in roles.iter().enumerate() {
        if token.is_empty() {
            return Err(Error::NoName { role });
        }
        if let Some((first, _)) = roles.iter().take(index).find(|(_, other)| other == token) {
            return Err(Error::SameToken {
                first,
                second: role,
                token: (*token).clone(),
            });
        }
    }
    Ok(())
}

fn ids_of(tokens: &Tokens, roles: &[(&'static str, &String)]) -> Result<Vec<u32>, Error> {
    let id = |(_, token): &(_, &String)| {
        let lacking = || Error::Library(format!("it did not add the token `{token}`").into());
        tokens.id(token).ok_or_else(lacking)
    };
    roles.iter().map(id).collect()
}

/// Makes `token` a special token of the JSON, in the place of a plain added one.
fn insert(json: &mut Value, token: &str, id: u32) {
    let entry = json!({
        "id": id,
        "content": token,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    });
    match json.get_mut("added_tokens").and_then(Value::as_array_mut) {
        Some(list) => match list.iter_mut().find(|old| old["content"] == *token) {
            Some(old) => *old = entry,
            None => list.push(entry),
        },
        None => set(json, "added_tokens", Value::Array(vec![entry])),
    }
}

fn set(json: &mut Value, field: &str, value: Value) {
    if let Some(object) = json.as_object_mut() {
        object.insert(field.into(), value);
    }
}
