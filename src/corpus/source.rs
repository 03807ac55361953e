//! From a source, as a recipe says it, to the files that it names.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use glob::{MatchOptions, Pattern};

use crate::fs;
use crate::remote::{self, Copy};

use super::block::{Chunk, Chunks, Gathered, Records};
use super::decompress::{Compression, Input};
use super::error::{Error, Problem};
use super::lines::{LineBlock, LineBlocks};
use super::select::{self, Table};
use super::template::{NoteFields, Shape, Template};
use super::{
    DOCUMENT_BYTES_MAX, File, Format, Purpose, Reach, Source, Span, TextUnit, jsonl, parquet,
    synthetic, text,
};

/// How a file is read, settled once.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    content: Content,
    shape: Shape,
}

impl Reading {
    /// Whether a document is a line, and a line can be found without reading those before it.
    pub(super) fn is_lines(&self) -> bool {
        matches!(
            self.content,
            Content::Jsonl(Compression::None) | Content::Text(Compression::None, TextUnit::Line)
        )
    }

    /// Whether the file is a table whose rows are documents.
    pub(super) fn is_parquet(&self) -> bool {
        matches!(self.content, Content::Parquet)
    }

    /// Whether the file is about as long as the text in it.
    pub(super) fn is_uncompressed(&self) -> bool {
        matches!(
            self.content,
            Content::Jsonl(Compression::None) | Content::Text(Compression::None, _)
        )
    }
}

#[derive(Clone, Debug)]
enum Content {
    Jsonl(Compression),
    Text(Compression, TextUnit),
    Parquet,
    Select(Table, String),
    Synthetic(synthetic::Spec),
}

/// The files of one source, sorted by name.
pub(super) fn resolve(
    index: usize,
    source: &Source,
    place: (&Reach, Purpose),
) -> Result<Vec<File>, Error> {
    let (reach, purpose) = place;
    let wrong = |problem| Error::Source { index, problem };
    let notes = notes(source).map_err(wrong)?;
    let shape = shape(source, purpose).map_err(wrong)?.noted(notes);
    match (&source.path, &source.synthetic) {
        (None, None) => Err(wrong(Problem::NoInput)),
        (Some(_), Some(_)) => Err(wrong(Problem::TwoInputs)),
        (None, Some(spec)) => {
            let file = generated(source, spec, shape).map_err(wrong)?;
            Ok(vec![File {
                source: index,
                ..file
            }])
        }
        (Some(pattern), None) => {
            if let Some(query) = &source.select {
                select::check(query).map_err(wrong)?;
            }
            found(index, pattern, reach)?
                .into_iter()
                .map(|Found { name, path, copy }| {
                    let content = content(source, &name, &shape).map_err(wrong)?;
                    let bytes = match &copy {
                        Some(copy) => copy.object.bytes,
                        None => fs::size(&path)?,
                    };
                    Ok(File {
                        source: index,
                        bytes,
                        span: None,
                        first_row: 0,
                        path: Some(path),
                        copy,
                        reading: Arc::new(Reading {
                            content,
                            shape: shape.clone(),
                        }),
                        name,
                    })
                })
                .collect()
        }
    }
}

/// Starts reading a file.
pub(super) fn open(file: &File) -> Result<Chunks, Error> {
    let Reading { content, shape } = file.reading.as_ref();
    let path = file.local()?;
    let input = |compression| Input::open(path, &file.name, compression);
    Ok(match content {
        Content::Jsonl(compression) => {
            let shape = Arc::new(shape.clone());
            let roots = Arc::new(jsonl::roots(&shape));
            lines(file, *compression, move |block| {
                Box::new(jsonl::Documents::new(block, shape.clone(), roots.clone()))
            })?
        }
        Content::Text(compression, TextUnit::Line) => {
            let shape = shape.clone();
            lines(file, *compression, move |block| {
                Box::new(text::LineDocuments::new(block, shape.clone()))
            })?
        }
        Content::Text(compression, unit) => Box::new(Gathered::new(
            text::Documents::new(input(*compression)?, *unit, shape.clone()),
            text::Documents::bytes_read,
        )),
        Content::Parquet => {
            let shape = Arc::new(shape.clone());
            Box::new(parquet::Batches::open(file, path, shape)?)
        }
        Content::Select(table, query) => Box::new(Gathered::new(
            select::Documents::open(path, &file.name, *table, query, shape.clone())?,
            |_| 0,
        )),
        Content::Synthetic(spec) => Box::new(Gathered::new(
            synthetic::Documents::new(spec, shape.clone()),
            |_| 0,
        )),
    })
}

/// Blocks of lines, to be parsed by `records`.
fn lines(
    file: &File,
    compression: Compression,
    records: impl Fn(LineBlock) -> Records + Send + 'static,
) -> Result<Chunks, Error> {
    let path = file.local()?;
    let (limit, bytes) = (DOCUMENT_BYTES_MAX, file.bytes);
    let mut blocks = match file.span {
        Some(Span::Bytes { start, end }) => {
            let input = Input::open_at(path, &file.name, compression, start.saturating_sub(1))?;
            LineBlocks::of_span(input, limit, path, start..end)?
        }
        _ => LineBlocks::new(Input::open(path, &file.name, compression)?, limit),
    };
    let mut told = 0;
    Ok(Box::new(std::iter::from_fn(move || {
        let block = blocks.next()?;
        // A part of a file ends with a line, which may go beyond it.
        let position = blocks.bytes_read().min(bytes);
        let read = position - told;
        told = position;
        Some(block.map(|block| Chunk {
            read,
            bytes: block.len(),
            records: records(block),
        }))
    })))
}

/// Where records say more about their documents.
fn notes(source: &Source) -> Result<NoteFields, Problem> {
    let hint = source.hint.as_deref();
    let hint = hint.map(|hint| Template::parse("hint", hint)).transpose()?;
    Ok(NoteFields {
        scores: source.scores.clone(),
        positions: source.positions.clone(),
        hint,
    })
}

/// What documents are made of, for this purpose.
fn shape(source: &Source, purpose: Purpose) -> Result<Shape, Problem> {
    match (purpose, &source.text, &source.prefix, &source.target) {
        (Purpose::Pretrain, _, Some(_), _) => Err(Problem::TemplateInPretraining { key: "prefix" }),
        (Purpose::Pretrain, _, _, Some(_)) => Err(Problem::TemplateInPretraining { key: "target" }),
        (Purpose::Pretrain, text, ..) => {
            let field = text.as_deref().unwrap_or(text::FIELD);
            Ok(Shape::Plain(field.into()))
        }
        (Purpose::Finetune, Some(_), ..) => Err(Problem::TextInFinetuning),
        (Purpose::Finetune, _, None, _) => Err(Problem::NoTemplate { key: "prefix" }),
        (Purpose::Finetune, _, _, None) => Err(Problem::NoTemplate { key: "target" }),
        (Purpose::Finetune, None, Some(prefix), Some(target)) => Ok(Shape::Example {
            prefix: Template::parse("prefix", prefix)?,
            target: Template::parse("target", target)?,
        }),
    }
}

fn generated(source: &Source, spec: &synthetic::Spec, shape: Shape) -> Result<File, Problem> {
    let what = "a synthetic source";
    unused("format", &source.format, what)?;
    unused("document", &source.document, what)?;
    unused("select", &source.select, what)?;
    let most = spec.most();
    if spec.documents == 0 || most < spec.documents {
        return Err(Problem::Documents {
            found: spec.documents,
            most,
        });
    }
    let name = format!("synthetic:{}", spec.corpus.name());
    known(&shape, spec.corpus.fields(), &format!("`{name}`"))?;
    Ok(File {
        name,
        source: 0,
        bytes: 0,
        span: None,
        first_row: 0,
        path: None,
        copy: None,
        reading: Arc::new(Reading {
            content: Content::Synthetic(spec.clone()),
            shape,
        }),
    })
}

fn content(source: &Source, name: &str, shape: &Shape) -> Result<Content, Problem> {
    let (compression, stem) = Compression::of_name(remote::file_name(name));
    let format = source.format.or_else(|| format_of_name(stem));
    let Some(format) = format else {
        return Err(Problem::UnknownFormat { file: name.into() });
    };
    match format {
        Format::Text => {
            let what = format!("the text file `{name}`");
            unused("select", &source.select, &what)?;
            known(shape, &[text::FIELD], &what)?;
            Ok(Content::Text(
                compression,
                source.document.unwrap_or_default(),
            ))
        }
        Format::Jsonl => {
            unused(
                "document",
                &source.document,
                &format!("the JSONL file `{name}`"),
            )?;
            Ok(match &source.select {
                Some(query) => Content::Select(Table::Jsonl(compression), query.clone()),
                None => Content::Jsonl(compression),
            })
        }
        Format::Parquet => {
            unused(
                "document",
                &source.document,
                &format!("the Parquet file `{name}`"),
            )?;
            if compression != Compression::None {
                return Err(Problem::CompressedParquet { file: name.into() });
            }
            Ok(match &source.select {
                Some(query) => Content::Select(Table::Parquet, query.clone()),
                None => Content::Parquet,
            })
        }
    }
}

fn format_of_name(stem: &str) -> Option<Format> {
    let (_, ending) = stem.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "txt" | "text" | "md" => Some(Format::Text),
        "parquet" => Some(Format::Parquet),
        _ => None,
    }
}

/// Refuses a key that the recipe has but that means nothing for `what`.
fn unused<T>(key: &'static str, value: &Option<T>, what: &str) -> Result<(), Problem> {
    match value {
        None => Ok(()),
        Some(_) => Err(Problem::Unused {
            key,
            what: what.into(),
        }),
    }
}

/// Refuses fields that documents of this kind never have.
fn known(shape: &Shape, fields: &[&str], what: &str) -> Result<(), Problem> {
    match shape
        .fields()
        .into_iter()
        .find(|field| !fields.contains(field))
    {
        None => Ok(()),
        Some(field) => Err(Problem::UnknownField {
            field: field.into(),
            what: what.into(),
            fields: fields.iter().map(|field| (*field).into()).collect(),
        }),
    }
}

/// A file that a source names.
struct Found {
    name: String,
    path: PathBuf,
    copy: Option<Arc<Copy>>,
}

/// The files that a path, glob or URL means.
fn found(index: usize, pattern: &str, reach: &Reach) -> Result<Vec<Found>, Error> {
    let root = &reach.data_root;
    if remote::is_address(pattern) {
        let copies = remote::find(pattern, &reach.access)?.into_iter();
        let found = copies.map(|copy| Found {
            name: copy.object.url.clone(),
            path: copy.path(),
            copy: Some(copy),
        });
        return Ok(found.collect());
    }
    let names = expand(index, pattern, root)?.into_iter();
    let found = names.map(|name| Found {
        path: root.join(&name),
        name,
        copy: None,
    });
    Ok(found.collect())
}

/// The names, as reached from the root, of the files that a pattern matches.
fn expand(index: usize, pattern: &str, root: &Path) -> Result<Vec<String>, Error> {
    let literal = root.join(pattern);
    if literal.is_file() {
        return Ok(vec![name(&literal, root)]);
    }
    if literal.exists() {
        fs::open(&literal)?; // Says why it cannot be read: a folder, a pipe.
    }
    let malformed = |error: glob::PatternError| Error::Source {
        index,
        problem: Problem::Glob {
            pattern: pattern.into(),
            message: error.msg,
            at: error.pos,
        },
    };
    Pattern::new(pattern).map_err(malformed)?;
    // The root is a path, not a pattern; joining keeps an absolute pattern as it is.
    let escaped = Path::new(&Pattern::escape(&root.to_string_lossy())).join(pattern);
    let options = MatchOptions {
        require_literal_leading_dot: true,
        require_literal_separator: true,
        ..MatchOptions::default()
    };
    let paths = glob::glob_with(&escaped.to_string_lossy(), options).map_err(malformed)?;
    let mut names = Vec::new();
    for path in paths {
        let path = path.map_err(|error| {
            let path = error.path().to_path_buf();
            fs::Error::new("list", &path)(error.into())
        })?;
        if path.is_file() {
            names.push(name(&path, root));
        }
    }
    if names.is_empty() {
        return Err(Error::NoMatch {
            index,
            pattern: pattern.into(),
            root: root.into(),
        });
    }
    names.sort_unstable();
    Ok(names)
}

/// A path as reached from the root, with `/` between its parts.
fn name(path: &Path, root: &Path) -> String {
    let inside = path.strip_prefix(root).unwrap_or(path);
    let parts = inside.components().map(|part| match part {
        Component::RootDir => String::new(),
        part => part.as_os_str().to_string_lossy().into_owned(),
    });
    parts.collect::<Vec<_>>().join("/")
}
