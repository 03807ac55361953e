//! What can be wrong with a source, a file or a record.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::{fs, remote};

use super::decompress::Compression;
use super::template::FieldError;

/// A corpus that cannot be resolved or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] fs::Error),
    /// A URL cannot be read.
    #[error(transparent)]
    Remote(#[from] remote::Error),
    /// A list of sources is empty.
    #[error("no sources: expected at least one")]
    NoSources,
    /// A source contradicts itself or its purpose.
    #[error("`sources[{index}]`: {problem}")]
    Source {
        /// Position in the list, from 0.
        index: usize,
        /// What is wrong.
        problem: Problem,
    },
    /// A file is missing, or no file matches a glob.
    #[error("`sources[{index}]`: no file matches `{pattern}` in the data root `{}`", root.display())]
    NoMatch {
        /// Position in the list of sources, from 0.
        index: usize,
        /// The path or glob as the recipe has it.
        pattern: String,
        /// Where relative paths start.
        root: PathBuf,
    },
    /// A compressed file is damaged or cut short.
    #[error("cannot decompress `{file}` ({compression})")]
    Decompress {
        /// The file's name.
        file: String,
        /// What its name says it is compressed with.
        compression: Compression,
        /// What the decompressor said.
        #[source]
        source: io::Error,
    },
    /// A document is longer than [`super::DOCUMENT_BYTES_MAX`].
    #[error("`{file}`{place}: longer than {limit} bytes, the most that one document may have")]
    Long {
        /// The file's name.
        file: String,
        /// Where the document starts.
        place: Place,
        /// The longest document that is read.
        limit: usize,
    },
    /// A text file or JSON line is not UTF-8.
    #[error("`{file}`{place}: not UTF-8 at byte {byte} of the text")]
    NotUtf8 {
        /// The file's name.
        file: String,
        /// The line.
        place: Place,
        /// Offset of the wrong byte in the decompressed file, from 0.
        byte: u64,
    },
    /// A line is not a JSON object.
    #[error("`{file}`{place}, column {column}: not one JSON object: {message}")]
    Json {
        /// The file's name.
        file: String,
        /// The line.
        place: Place,
        /// The column, from 1, in bytes.
        column: usize,
        /// What the parser said.
        message: String,
    },
    /// A field is missing or has the wrong type.
    #[error("`{file}`{place}: {problem}")]
    Field {
        /// The file's name.
        file: String,
        /// The record.
        place: Place,
        /// What is wrong.
        problem: FieldError,
    },
    /// A Parquet file is damaged or cut short.
    #[error("cannot read `{file}` as Parquet")]
    Parquet {
        /// The file's name.
        file: String,
        /// What the reader said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A query failed.
    #[error(
        "cannot run the query of `select` on `{file}`, whose columns are {}: {message}",
        list(fields)
    )]
    Select {
        /// The file's name.
        file: String,
        /// The columns there are.
        fields: Vec<String>,
        /// What polars said.
        message: String,
    },
}

impl Error {
    /// What the user can do about it, where that is not plain from the message.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoSources => "name a file: `sources = [{ path = \"stories/*.jsonl\" }]`",
            Self::NoMatch { root, .. } => {
                return Some(format!(
                    "relative paths start at the data root `{}`: correct the path, or name another root with `--data-root DIR`",
                    root.display()
                ));
            }
            Self::Source { problem, .. } => return problem.hint(),
            Self::Remote(error) => return error.hint().map(String::from),
            Self::Decompress { source, .. } if source.to_string().contains("too much memory") => {
                "its window is larger than 128 MiB: compress the file again without `--long=31`"
            }
            Self::Decompress { .. } => {
                "the file is damaged, cut short, or not what its name says: copy it again"
            }
            Self::Long { .. } => {
                "for plain text choose smaller documents: `document = \"line\"` or `document = \"paragraph\"`"
            }
            Self::NotUtf8 { byte: 0, .. } => {
                "it is in another encoding, mostly UTF-16: `iconv -f UTF-16 -t UTF-8 OLD > NEW`"
            }
            Self::NotUtf8 { .. } => "convert the file first: `iconv -f LATIN1 -t UTF-8 OLD > NEW`",
            Self::Json { message, .. } if message.contains("sequence") => {
                "JSONL has one whole JSON object on each line; `jq -c '.[]' OLD > NEW` makes that of a list"
            }
            Self::Json { .. } => "JSONL has one whole JSON object on each line",
            Self::Field { problem, .. } => return problem.hint(),
            Self::Fs(error) if error.is_folder() => "name the files in it: `FOLDER/*.jsonl`",
            Self::Fs(_) | Self::Parquet { .. } | Self::Select { .. } => return None,
        };
        Some(hint.into())
    }
}

/// What is wrong with a source as the recipe says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Neither `path` nor `synthetic`.
    #[error("expected `path` or `synthetic`, found neither")]
    NoInput,
    /// Both `path` and `synthetic`.
    #[error("expected `path` or `synthetic`, found both")]
    TwoInputs,
    /// A key that means nothing here.
    #[error("`{key}` does not apply to {what}")]
    Unused {
        /// The key.
        key: &'static str,
        /// What the source is.
        what: String,
    },
    /// Pretraining with `prefix` or `target`.
    #[error("`{key}` is for finetuning; pretraining reads the field named by `text`")]
    TemplateInPretraining {
        /// The key that was given.
        key: &'static str,
    },
    /// Finetuning with `text`.
    #[error("`text` is for pretraining; finetuning needs the templates `prefix` and `target`")]
    TextInFinetuning,
    /// Finetuning without `prefix` or `target`.
    #[error("finetuning needs the templates `prefix` and `target`; `{key}` is missing")]
    NoTemplate {
        /// The key that is missing.
        key: &'static str,
    },
    /// A template that cannot be read.
    #[error("template `{key}`: {message} at byte {at} of `{template}`")]
    Template {
        /// `prefix` or `target`.
        key: &'static str,
        /// The template.
        template: String,
        /// Where the error is.
        at: usize,
        /// What it is.
        message: &'static str,
    },
    /// A field that records of this kind never have.
    #[error("no field `{field}` in {what}; its fields are {}", list(fields))]
    UnknownField {
        /// The field asked for.
        field: String,
        /// What the source is.
        what: String,
        /// The fields there are.
        fields: Vec<String>,
    },
    /// A malformed glob.
    #[error("malformed glob `{pattern}`: {message} at byte {at}")]
    Glob {
        /// The glob.
        pattern: String,
        /// What is wrong.
        message: &'static str,
        /// Where.
        at: usize,
    },
    /// A file whose name does not tell its format.
    #[error("cannot tell the format of `{file}` from its name")]
    UnknownFormat {
        /// The file's name.
        file: String,
    },
    /// A Parquet file with `.gz` or `.zst`.
    #[error("`{file}`: a Parquet file that is compressed as a whole cannot be read")]
    CompressedParquet {
        /// The file's name.
        file: String,
    },
    /// A synthetic corpus of no or too many documents.
    #[error("a synthetic corpus of {found} documents: expected 1 to {most}")]
    Documents {
        /// What the recipe says.
        found: u64,
        /// How many there can be.
        most: u64,
    },
    /// A query whose rows come in no fixed order.
    #[error(
        "the query of `select` has `{keyword}` without `ORDER BY`: the order of its rows is not fixed"
    )]
    Unordered {
        /// What undoes the order.
        keyword: &'static str,
    },
    /// More files than a document's number can name.
    #[error("too many files: expected at most {}", u32::MAX)]
    TooManyFiles,
}

impl Problem {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NoInput | Self::TwoInputs => {
                "a source is a file, `{ path = \"stories/*.jsonl\" }`, or generated, `{ synthetic = { corpus = \"stories\", documents = 1000 } }`"
            }
            Self::TextInFinetuning | Self::NoTemplate { .. } => {
                "for example `prefix = \"Q: {question}\\nA:\"` and `target = \" {answer}\"`"
            }
            Self::Template { .. } => "`{field}` stands for a field; write `{{` and `}}` for braces",
            Self::UnknownFormat { .. } => {
                "add `format = \"jsonl\"`, `\"text\"` or `\"parquet\"` to the source"
            }
            Self::CompressedParquet { .. } => "decompress it; Parquet files are compressed inside",
            Self::Unordered { .. } => {
                "end the query with `ORDER BY` over columns that tell all rows apart"
            }
            _ => return None,
        };
        Some(hint.into())
    }
}

/// Where in a file something stands; shows as `, line 3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole file.
    File,
    /// A line, from 1.
    Line(u64),
    /// A row of a table, from 0.
    Row(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => Ok(()),
            Self::Line(line) => write!(f, ", line {line}"),
            Self::Row(row) => write!(f, ", row {row} (from 0)"),
        }
    }
}

/// Field names as a message lists them.
pub(super) fn list(fields: &[String]) -> String {
    match fields {
        [] => "none".into(),
        fields => {
            let quoted: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
            quoted.join(", ")
        }
    }
}
