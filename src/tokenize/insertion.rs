//! What a pause policy does with a vocabulary.

use super::{Error, Tokenizer};
use crate::pause::{self, Insertion, Token};

impl Tokenizer {
    /// Where a policy puts pauses in rows of this tokenizer's ids, `row_length` at most.
    pub fn insertion(&self, config: &pause::Config, row_length: usize) -> Result<Insertion, Error> {
        let insertion = Insertion::new(config.clone(), self.reserved(), row_length)?;
        let insertion = insertion.with_pieces(|| self.pieces())?;
        let Token::Filler(text) = &config.token else {
            return Ok(insertion);
        };
        let mut ids = Vec::new();
        self.encode(text, &mut ids)?;
        match ids.as_slice() {
            [filler] => Ok(insertion.with_filler(*filler)),
            _ => Err(Error::Pause(pause::Error::Filler {
                text: text.clone(),
                tokens: ids.len(),
            })),
        }
    }
}
