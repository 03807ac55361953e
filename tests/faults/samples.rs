//! Good files of every kind that is read, small.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, StructArray, UInt32Array};
use arrow::datatypes::{DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

/// The texts of all samples.
pub fn texts() -> Vec<String> {
    let text = |i: usize| match i % 4 {
        0 => format!("The river counted {} stones – “enough”, it said.", i * 7),
        1 => "Une rivière.\n\tДва камня, 三つの石 🪨🪨".repeat(1 + i % 3),
        2 => String::new(),
        _ => "stone ".repeat(i),
    };
    (0..40).map(text).collect()
}

/// One JSON object a line.
pub fn jsonl() -> Vec<u8> {
    let line = |(i, text): (usize, String)| {
        let nested = json!({ "deep": [i, { "er": null }] });
        format!("{}\n", json!({ "id": i, "meta": nested, "text": text }))
    };
    let lines: String = texts().into_iter().enumerate().map(line).collect();
    lines.into_bytes()
}

/// Two gzip members.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut out = Vec::new();
    for part in [first, second] {
        let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap();
    }
    out
}

/// A Zstandard frame with a checksum.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// How a Parquet file is written.
#[derive(Clone, Copy, Debug)]
pub enum Packing {
    /// Plain pages, no compression.
    Plain,
    /// Dictionary pages, Zstandard, several row groups.
    Dictionary,
    /// Snappy, version 2 pages.
    Snappy,
}

/// A Parquet file with a text, a number and a struct.
pub fn parquet(packing: Packing) -> Vec<u8> {
    let texts = texts();
    let n = u32::try_from(texts.len()).unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(texts));
    let number: ArrayRef = Arc::new(UInt32Array::from_iter_values(0..n));
    let field = Arc::new(Field::new("stem", DataType::Utf8, false));
    let inner: ArrayRef = Arc::new(StructArray::from(vec![(field, text.clone())]));
    let columns = [("text", text), ("id", number), ("inner", inner)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let builder = WriterProperties::builder();
    let properties = match packing {
        Packing::Plain => builder.set_dictionary_enabled(false),
        Packing::Dictionary => builder
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap()))
            .set_max_row_group_row_count(Some(16)),
        Packing::Snappy => builder
            .set_compression(Compression::SNAPPY)
            .set_writer_version(parquet::file::properties::WriterVersion::PARQUET_2_0)
            .set_data_page_row_count_limit(8),
    };
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

/// A `tokenizer.json` of these parts.
fn whole(normalizer: Value, pre: Value, decoder: Value, model: Value) -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [
            { "id": 0, "content": "<unk>", "single_word": false, "lstrip": false,
              "rstrip": false, "normalized": false, "special": true },
            { "id": 1, "content": "stones", "single_word": true, "lstrip": true,
              "rstrip": true, "normalized": true, "special": false }
        ],
        "normalizer": normalizer, "pre_tokenizer": pre,
        "post_processor": null, "decoder": decoder, "model": model,
    })
}

/// The words of all vocabularies, in the order of their ids.
const WORDS: [&str; 17] = [
    "<unk>", "stones", "r", "i", "v", "e", "s", "t", "o", "n", "ri", "##v", "▁", "▁r", "<0x0A>",
    "Ġ", "er",
];

fn vocabulary() -> Value {
    let ids = WORDS.iter().enumerate();
    let ids = ids.map(|(id, word)| (word.to_string(), json!(id)));
    ids.collect::<serde_json::Map<_, _>>().into()
}

fn bpe(extra: &[(&str, Value)]) -> Value {
    let mut model = json!({
        "type": "BPE", "dropout": null, "unk_token": "<unk>",
        "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": vocabulary(), "merges": [["r", "i"], ["e", "r"], ["▁", "r"]],
    });
    for (key, value) in extra {
        model[*key] = value.clone();
    }
    model
}

/// Families of `tokenizer.json`, each as small as it can be.
pub fn tokenizers() -> Vec<(&'static str, Value)> {
    let mut families = bpe_tokenizers();
    families.extend(other_tokenizers());
    families
}

fn bpe_tokenizers() -> Vec<(&'static str, Value)> {
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let split = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+" },
          "behavior": "Isolated", "invert": false },
        byte_level,
    ] });
    let sentencepiece = json!({ "type": "Sequence", "normalizers": [
        { "type": "NFKC" }, { "type": "Replace", "pattern": { "String": " " }, "content": "▁" },
        { "type": "Prepend", "prepend": "▁" }, { "type": "Strip", "strip_left": true, "strip_right": true },
    ] });
    vec![
        (
            "byte-level",
            whole(
                Value::Null,
                byte_level.clone(),
                byte_level.clone(),
                bpe(&[]),
            ),
        ),
        (
            "split",
            whole(
                json!({ "type": "NFC" }),
                split,
                byte_level,
                bpe(&[("ignore_merges", json!(true))]),
            ),
        ),
        (
            "sentencepiece",
            whole(
                sentencepiece,
                Value::Null,
                json!({ "type": "ByteFallback" }),
                bpe(&[("byte_fallback", json!(true)), ("fuse_unk", json!(true))]),
            ),
        ),
    ]
}

fn other_tokenizers() -> Vec<(&'static str, Value)> {
    let vocab = vocabulary();
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true });
    let pieces: Value = WORDS.iter().map(|word| json!([word, -1.5])).collect();
    let bert = json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true });
    vec![
        (
            "unigram",
            whole(
                Value::Null,
                metaspace.clone(),
                metaspace,
                json!({ "type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": pieces }),
            ),
        ),
        (
            "wordpiece",
            whole(
                bert,
                json!({ "type": "BertPreTokenizer" }),
                json!({ "type": "WordPiece", "prefix": "##", "cleanup": true }),
                json!({ "type": "WordPiece", "unk_token": "<unk>", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": vocab }),
            ),
        ),
        (
            "wordlevel",
            whole(
                Value::Null,
                json!({ "type": "WhitespaceSplit" }),
                Value::Null,
                json!({ "type": "WordLevel", "unk_token": "<unk>", "vocab": vocab }),
            ),
        ),
    ]
}

/// A recipe that uses most keys.
pub const RECIPE: &str = r#"
seed = 7
[tokenizer]
train = { vocab_size = 400, sample_bytes = 1000 }
pause = "<|p|>"
[model]
preset = "micro"
[pretrain]
sources = [{ path = "text/*.jsonl", text = "body" }, { synthetic = { corpus = "stories", documents = 9 } }]
pause = { policy = "random", fraction = 0.1, law = "uniform-interleaving", overflow = "carry" }
pack = { seq_len = 64, shard_tokens = 4096 }
validation = 0.1
train = { steps = 12, batch_tokens = 256, micro_batch_tokens = 128, lr = 1e-3, warmup = 2, checkpoint_every = 4 }
[finetune]
sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }]
pause = { policy = "suffix", count = { min = 0, max = 5 } }
pack = { seq_len = 64 }
[eval]
tasks = [{ name = "sums", sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }], limit = 6, max_tokens = 4 }]
pauses = [0, 5, 10]
sample = "The river"
"#;

/// The files of a small experiment, without its recipe.
pub fn experiment(root: &Path) {
    fs::create_dir(root.join("text")).unwrap();
    for file in 0..3 {
        let story = |day: usize| {
            let text = format!("On day {day} the heron counted {} stones. ", day * 7 % 31);
            format!("{{\"text\": \"{}\"}}\n", text.repeat(1 + day % 3))
        };
        let lines: String = (0..30).map(|line| story(file * 30 + line)).collect();
        fs::write(root.join(format!("text/{file}.jsonl")), lines).unwrap();
    }
    let question = |i: u32| {
        let sum = i + i % 7;
        format!(
            "{{\"question\": \"{i} plus {}?\", \"answer\": {sum}}}\n",
            i % 7
        )
    };
    let questions: String = (0..40).map(question).collect();
    fs::write(root.join("questions.jsonl"), questions).unwrap();
}

/// The recipe of the small experiment; `tokenizer` says which.
pub fn experiment_recipe(root: &Path, tokenizer: &str) {
    let recipe = format!("seed = 7\n[tokenizer]\n{tokenizer}\n{EXPERIMENT}");
    fs::write(root.join("recipe.toml"), recipe).unwrap();
}

/// The small experiment as `formats.toml`: Parquet shards, targets and fillers that are
/// stored, and dropped documents that are kept. Its tokenizer is one that stands.
pub fn formats_recipe(root: &Path, tokenizer: &str) {
    let recipe = format!("seed = 7\n[tokenizer]\nfile = \"{tokenizer}\"\n{FORMATS}");
    fs::write(root.join("formats.toml"), recipe).unwrap();
}

const FORMATS: &str = r#"
[pretrain]
sources = [{ path = "text/?.jsonl" }]
pause = { policy = "stride", every = 9, target = "repeat", target_weight = 0.5 }
filter = { min_words = 10 }
rejects = true
pack = { seq_len = 64, shard_tokens = 1024 }
validation = 0.2
[finetune]
sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }]
pause = { policy = "suffix", count = 5, token = { filler = "." }, target = { future = 2 } }
pack = { seq_len = 64, format = "parquet" }
validation = 0.2
"#;

const EXPERIMENT: &str = r#"
[pretrain]
sources = [{ path = "text/?.jsonl" }, { synthetic = { corpus = "stories", documents = 5 } }]
pause = { policy = "random", fraction = 0.1 }
pack = { seq_len = 64, shard_tokens = 1024 }
validation = 0.2
[finetune]
sources = [{ path = "questions.jsonl", prefix = "Q: {question}\nA:", target = " {answer}" }]
pause = { policy = "suffix", count = 5 }
pack = { seq_len = 64 }
validation = 0.2
"#;
