//! Corpora: files and generated text as a numbered stream of documents.
//!
//! A source names files by a path or glob, or text that pausedata generates.
//! Files are read as streams: what is held is one document, one batch of a
//! Parquet file, or the result of a `select` query on one file.
//!
//! **Invariant**: the stream of documents depends on the files, their names
//! below the data root and the recipe alone; text is passed on byte for byte.

mod block;
mod columns;
mod decompress;
mod error;
mod jsonl;
mod lines;
mod member;
mod pages;
mod parquet;
mod select;
pub mod source;
mod span;
pub mod synthetic;
mod template;
mod text;
mod unescape;
pub mod weight;

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use block::{Block, Blocks, Documents};
pub use decompress::Compression;
pub use error::{Error, Place, Problem};
pub use span::{Span, UNIT_BYTES};
pub use template::FieldError;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::progress::{Progress, Stop};
use crate::remote::{self, Access, Copy};

/// The longest document that is read, and the longest line of a file: 32 MiB.
/// Its ids can take eight times the memory, and memory is bounded.
pub const DOCUMENT_BYTES_MAX: usize = 32 << 20;

/// Where documents come from, as a recipe says it: a `path` or a `synthetic` corpus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file or glob (`*`, `**/`, `?`, `[ab]`); relative paths start at the data root.
    /// With the feature `cloud` also `s3://`, `gs://`, `hf://datasets/` and `https://`,
    /// which are copied into a cache first.
    /// JSONL, plain text and Parquet; the first two also with `.gz` or `.zst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A corpus that pausedata generates itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub synthetic: Option<synthetic::Spec>,
    /// The file format; taken from the file's name where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// What one document is in a plain-text file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<TextUnit>,
    /// The field that holds the text of a pretraining document; `text` where absent.
    /// A dotted path such as `question.stem` reaches into nested objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A polars SQL query over the table `source`, run on each JSONL or Parquet file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// Template of a finetuning prefix; `{field}` is replaced by that field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Template of a finetuning target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// How often its documents are taken, 1 where absent: 0.5 takes every other one,
    /// 2.5 takes all twice and every other one a third time. The counts are exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The field with a list of numbers, one a token of the text (of the target, where
    /// there is one), for the pause policy `score`: mostly log-likelihoods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<String>,
    /// The field with a list of character offsets into the text (into the target, where
    /// there is one), for the pause policy `positions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub positions: Option<String>,
    /// Template of what the pauses of an example are trained to say, for the target
    /// rule `hint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// Plain UTF-8 text.
    Text,
    /// Apache Parquet.
    Parquet,
}

/// What one document is in a plain-text file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TextUnit {
    /// The whole file.
    #[default]
    File,
    /// A line; empty lines are none.
    Line,
    /// Lines up to an empty line.
    Paragraph,
}

/// What documents are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Running text: the field named by `text`.
    Pretrain,
    /// Prefix and target, by their templates.
    Finetune,
}

/// Where sources are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where relative paths start.
    pub data_root: PathBuf,
    /// How URLs are reached.
    pub access: Access,
}

impl From<&Path> for Reach {
    fn from(data_root: &Path) -> Self {
        Self {
            data_root: data_root.into(),
            access: Access::default(),
        }
    }
}

/// The files of a list of sources, ordered by (source, name).
#[derive(Clone, Debug)]
pub struct Corpus {
    /// The files, or parts of them; [`crate::document::DocumentId::file`] indexes them.
    pub files: Vec<File>,
    /// The size on disk that a unit grows to.
    unit_bytes: u64,
}

/// A file, a part of one, or the text of one synthetic source.
#[derive(Clone, Debug)]
pub struct File {
    /// The path as reached from the data root, or `synthetic:<corpus>`.
    pub name: String,
    /// Index into the sources.
    pub source: usize,
    /// Size on disk; 0 for generated text.
    pub bytes: u64,
    /// Which part of the file this is; none where it is all of it.
    pub span: Option<Span>,
    /// Where it lies; none for generated text.
    pub path: Option<PathBuf>,
    /// What `path` is the copy of, where the source is a URL.
    copy: Option<Arc<Copy>>,
    /// Rows of a table before this part of it.
    first_row: u64,
    reading: Arc<source::Reading>,
}

impl From<&Reach> for Reach {
    fn from(reach: &Reach) -> Self {
        reach.clone()
    }
}

impl File {
    /// Where it can be read; a URL is fetched first.
    fn local(&self) -> Result<&Path, Error> {
        if let Some(copy) = &self.copy {
            copy.fetch()?;
        }
        Ok(self.path.as_deref().unwrap_or(Path::new("")))
    }

    /// What tells this version of an object from others; none of files.
    pub fn version(&self) -> Option<&str> {
        self.copy.as_ref()?.object.version.as_deref()
    }
}

impl Corpus {
    /// About how many bytes of text there are; unknown where files are compressed
    /// or text is generated.
    pub fn text_bytes(&self) -> Option<u64> {
        let bytes = |file: &File| file.reading.is_uncompressed().then_some(file.bytes);
        self.files.iter().map(bytes).sum()
    }

    /// The source that a file belongs to, by its index into the recipe's sources.
    pub fn source(&self, file: u32) -> usize {
        let file = self.files.get(file as usize);
        file.map_or(0, |file| file.source)
    }

    /// Size on disk; unknown where text is generated.
    pub fn bytes(&self) -> Option<u64> {
        let bytes = |file: &File| file.path.is_some().then_some(file.bytes);
        self.files.iter().map(bytes).sum()
    }

    /// Size on disk of one file; 0 where it is generated or there is none.
    pub fn bytes_of(&self, file: u32) -> u64 {
        self.files.get(file as usize).map_or(0, |file| file.bytes)
    }

    /// Finds the files that `sources` name; of URLs, what their stores say there is.
    pub fn resolve(
        sources: &[Source],
        reach: impl Into<Reach>,
        purpose: Purpose,
    ) -> Result<Self, Error> {
        let reach = reach.into();
        if sources.is_empty() {
            return Err(Error::NoSources);
        }
        let mut files = Vec::new();
        for (index, source) in sources.iter().enumerate() {
            files.extend(source::resolve(index, source, (&reach, purpose))?);
            if u32::try_from(files.len()).is_err() {
                let problem = Problem::TooManyFiles;
                return Err(Error::Source { index, problem });
            }
        }
        let unit_bytes = UNIT_BYTES;
        Ok(Self { files, unit_bytes })
    }

    /// Fetches what is a URL among some files; what is not fetched before it is read is
    /// fetched then, without progress.
    pub fn fetch(
        &self,
        files: impl IntoIterator<Item = Range<usize>>,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> Result<(), Error> {
        let files = files
            .into_iter()
            .flat_map(|files| self.files.get(files).unwrap_or_default());
        let copies = files.filter_map(|file| file.copy.as_ref());
        Ok(remote::fetch(copies, progress, stop)?)
    }

    /// Groups of consecutive files, each closed once it reaches the size that
    /// [`Corpus::cut`] was told; 64 MiB where it was told none.
    ///
    /// Decided by the files alone, so that work divided by units does not
    /// depend on who does it. A synthetic source is a unit of its own.
    pub fn units(&self) -> Vec<Range<usize>> {
        let mut units = Vec::new();
        let mut start = 0;
        let mut bytes = 0;
        for (index, file) in self.files.iter().enumerate() {
            if file.path.is_none() && start < index {
                units.push(start..index);
                start = index;
            }
            bytes += file.bytes;
            if self.unit_bytes <= bytes || file.path.is_none() {
                units.push(start..index + 1);
                start = index + 1;
                bytes = 0;
            }
        }
        if start < self.files.len() {
            units.push(start..self.files.len());
        }
        units
    }

    /// Reads some files in order, in blocks that any thread may parse.
    pub fn blocks(&self, files: Range<usize>) -> Blocks {
        let chosen = self.files.iter().cloned().zip(0u32..).skip(files.start);
        let chosen = chosen
            .take(files.len())
            .map(|(file, number)| (number, file));
        Blocks::new(chosen.collect())
    }

    /// Reads the documents of some files, in order. Empty documents are among
    /// them; after an error there are none.
    pub fn documents(&self, files: Range<usize>) -> Documents {
        Documents::new(self.blocks(files))
    }
}
