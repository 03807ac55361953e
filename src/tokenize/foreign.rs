//! What a `tokenizer.json` says before any token is reserved in it.

use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer as Engine;

use super::{Config, Error, FILE_BYTES_MAX, fast, load, reserve};
use crate::fs;
use crate::panics::caught;
use crate::token::{Reserved, TokenId};

/// A tokenizer of another program.
pub struct Foreign {
    engine: Engine,
    json: Value,
}

impl Foreign {
    /// Reads a `tokenizer.json`.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read_at_most(path, FILE_BYTES_MAX)?;
        Self::of(&bytes).map_err(|error| Error::In {
            path: path.to_path_buf(),
            source: Box::new(error),
        })
    }

    /// That of the bytes of a `tokenizer.json`.
    pub fn of(bytes: &[u8]) -> Result<Self, Error> {
        let json = reserve::parse(bytes)?;
        let mut engine = load(bytes)?;
        engine.with_padding(None);
        engine.with_truncation(None).map_err(Error::Library)?;
        Ok(Self { engine, json })
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> u32 {
        let largest = self.engine.get_vocab(true).into_values().max();
        largest.map_or(0, |id| id.saturating_add(1))
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.engine.id_to_token(id)
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<TokenId> {
        self.engine.token_to_id(token).map(TokenId)
    }

    /// The special token that its post-processor puts before every text.
    pub fn begin(&self) -> Result<Option<TokenId>, Error> {
        let around = self.around()?;
        let first = around.first().filter(|(_, special)| *special);
        Ok(first.map(|(id, _)| *id))
    }

    /// Whether it cuts text as Qwen 2 and 3 do.
    pub fn is_qwen(&self) -> bool {
        fast::recognise(&self.json).is_some_and(|family| family.is_qwen())
    }

    /// The JSON, whose post-processor puts `begin` and nothing else around a text.
    ///
    /// Its own stays where it does so.
    pub fn json_with(&self, begin: Option<TokenId>) -> Result<Value, Error> {
        let around = self.around()?;
        let special = around.iter().filter(|(_, special)| *special);
        let same = special.map(|(id, _)| *id).eq(begin) && self.begin()? == begin;
        let mut json = self.json.clone();
        if !same && let Some(object) = json.as_object_mut() {
            let before =
                begin.and_then(|begin| Some(before_every_text(begin, self.token(begin.0)?)));
            object.insert("post_processor".into(), before.unwrap_or_default());
        }
        Ok(json)
    }

    /// The ids of some text with those around it, and which of them are special.
    fn around(&self) -> Result<Vec<(TokenId, bool)>, Error> {
        let text = || self.engine.encode("a", true);
        let encoding = caught(text).map_err(Error::Library)?;
        let ids = encoding.get_ids().iter().copied().map(TokenId);
        let special = encoding.get_special_tokens_mask().iter();
        Ok(ids.zip(special.map(|special| *special == 1)).collect())
    }
}

/// A post-processor that puts a token before every text, and nothing else around it.
fn before_every_text(id: TokenId, token: String) -> Value {
    let special = json!({ "SpecialToken": { "id": token, "type_id": 0 } });
    let text = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let named = json!({ "id": token, "ids": [id], "tokens": [token] });
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A")],
        "pair": [special, text("A"), special, text("B")],
        "special_tokens": { token: named },
    })
}

impl Config {
    /// The names by which a `tokenizer.json` reserves these ids.
    pub fn of_reserved(bytes: &[u8], reserved: Reserved) -> Option<Self> {
        let json: Value = serde_json::from_slice(bytes).ok()?;
        let added = json.get("added_tokens")?.as_array()?;
        let name = |id: TokenId| {
            let token = (added.iter()).find(|token| token["id"].as_u64() == Some(id.0.into()))?;
            Some(token["content"].as_str()?.to_owned())
        };
        Some(Self {
            pause: name(reserved.pause)?,
            end: name(reserved.end)?,
            pad: name(reserved.pad)?,
            ..Self::default()
        })
    }
}
