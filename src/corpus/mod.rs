//! Corpora: files and generated text as a numbered stream of documents.

pub mod source;
pub mod synthetic;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::Document;

/// Where documents come from, as a recipe says it: a `path` or a `synthetic` corpus.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file or glob; relative paths start at the data root.
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// A polars SQL query over the table `source`, run on each file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub select: Option<String>,
    /// Template of a finetuning prefix; `{field}` is replaced by that field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Template of a finetuning target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
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
