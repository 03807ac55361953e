//! Reserved tokens: added once, each a single special id of its own.

use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer as Engine};

use super::{
    Config, Error, PauseTokens, SpecialText, VALUES_MAX, VOCABULARY_MAX, WORD_LETTERS_MAX, guarded,
    load,
};
use crate::token::{Extra, Reserved, TokenId};

/// A `tokenizer.json` that holds the reserved tokens.
pub struct Added {
    /// The file.
    pub json: Vec<u8>,
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
    let values = count_values(bytes);
    if VALUES_MAX < values {
        return Err(Error::Field {
            field: "tokenizer.json",
            expected: "at most 4194304 values",
            found: values.to_string(),
        });
    }
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
pub fn add(mut json: Value, config: &Config) -> Result<Added, Error> {
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
    // Indented as such files mostly are, so that an error names the line.
    let indented = serde_json::to_vec_pretty(&json).map_err(Error::Json)?;
    let mut engine = load(&indented)?;
    vocab_size(&engine)?;
    let before = engine.get_added_tokens_decoder();
    let is_special = |token: &str| before.values().any(|t| t.special && t.content == token);
    let is_word = |token: &String| engine.token_to_id(token).is_some() && !is_special(token);
    let words: Vec<&str> = (roles.iter())
        .filter(|(_, token)| is_word(token))
        .map(|(role, _)| *role)
        .collect();
    let missing: Vec<&String> = (roles.iter())
        .map(|(_, token)| *token)
        .filter(|token| !is_special(token))
        .collect();
    let tokens: Vec<AddedToken> = (missing.iter())
        .map(|token| AddedToken::from(token.as_str(), true))
        .collect();
    guarded(|| engine.add_special_tokens(tokens)).map_err(Error::Library)?;
    for token in &missing {
        let id = id_of(&engine, token)?;
        insert(&mut json, token, id);
    }
    if vocab_size(&engine)? as usize != engine.get_vocab_size(true) {
        // The vocabulary has gaps. Whoever reads the file gives new tokens ids from its
        // size on, whatever ids it lists: those count.
        engine = load(&serde_json::to_vec(&json).map_err(Error::Json)?)?;
        for token in missing {
            let id = id_of(&engine, token)?;
            insert(&mut json, token, id);
        }
    }
    let ids = (roles.iter())
        .map(|(_, token)| id_of(&engine, token))
        .collect::<Result<Vec<u32>, _>>()?;
    let reserved = reserved(&ids, config.pause_tokens)?;
    let unproved = (roles.iter().zip(ids))
        .filter(|((role, _), _)| words.contains(role))
        .map(|((role, token), id)| Name {
            role,
            token: (*token).clone(),
            id,
        })
        .collect();
    let mut bytes = serde_json::to_vec_pretty(&json).map_err(Error::Json)?;
    bytes.push(b'\n');
    Ok(Added {
        json: bytes,
        reserved,
        unproved,
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

/// One more than the largest id.
pub fn vocab_size(engine: &Engine) -> Result<u32, Error> {
    let largest = engine.get_vocab(true).into_values().max().unwrap_or(0);
    match largest < VOCABULARY_MAX {
        true => Ok(largest + 1),
        false => Err(Error::TooLarge {
            found: u64::from(largest),
        }),
    }
}

/// Checks that each reserved id is a special token, and no other token's id.
pub fn check(engine: &Engine, reserved: Reserved) -> Result<(), Error> {
    let basic = [
        ("pause", reserved.pause),
        ("end", reserved.end),
        ("pad", reserved.pad),
    ];
    let extra = reserved.extra.ids().map(|id| ("extra pause", id));
    let roles: Vec<(&'static str, TokenId)> = basic.into_iter().chain(extra).collect();
    let added = engine.get_added_tokens_decoder();
    let vocabulary = engine.get_vocab(true);
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
        let mut owners = vocabulary.iter().filter(|(_, owner)| **owner == id.0);
        if let Some((other, _)) = owners.find(|(other, _)| *other != token) {
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
pub fn barred(engine: &Engine, json: &Value, reserved: Reserved, special: SpecialText) -> Vec<u32> {
    let unknown = match json.pointer("/model/unk_token").and_then(Value::as_str) {
        Some(token) => engine.token_to_id(token).map(u64::from),
        None => json.pointer("/model/unk_id").and_then(Value::as_u64),
    };
    let mut ids = vec![reserved.pause.0, reserved.end.0, reserved.pad.0];
    ids.extend(reserved.extra.ids().map(|id| id.0));
    if special == SpecialText::Ordinary {
        let added = engine.get_added_tokens_decoder();
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

fn id_of(engine: &Engine, token: &str) -> Result<u32, Error> {
    engine
        .token_to_id(token)
        .ok_or_else(|| Error::Library(format!("it did not add the token `{token}`").into()))
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
