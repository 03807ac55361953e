mod damage;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::FileExt;

use serde_json::json;

use super::*;
use crate::digest::checksum;
use crate::document::DocumentId;
use crate::manifest::{
    FORMAT, FileRecord, Ledger, SHARDS, ShardFormat, SplitRecord, Stage, TokenizerRecord, Totals,
};
use crate::pause;
use crate::sequence::Stored;
use crate::shard::{DocumentRecord, ShardSpec, ShardWriter};
use crate::token::{IdWidth, TokenId};
use crate::tokenize::{Config, Training};

/// Shards of a split, each with its rows; `|` stands where a prefix ends.
type Splits = [(Split, &'static [&'static [&'static str]]); 2];

/// A tiny dataset, in `data/golden/`.
struct Golden {
    name: &'static str,
    format: ShardFormat,
    stage: Stage,
    tokenizer: fn() -> Tokenizer,
    splits: Splits,
    /// Whether the rows say more than their ids do, in an `.aux`.
    aux: bool,
}

const FINETUNE: Splits = [
    (
        Split::Train,
        &[&[
            "Who sat?|⏸⏸ The cat.■",
            "|■",
            "Where?|⏸⏸ On the mat, naïvely.■",
        ]],
    ),
    (Split::Validation, &[&["Why?|⏸⏸ 日本■"]]),
];

const PRETRAIN: Splits = [
    (
        Split::Train,
        &[&["the cat ⏸ sat", "■ the ⏸ mat", ""], &["cat ■"]],
    ),
    (Split::Validation, &[]),
];

/// Rows that are blocks, and one that is less.
const LONG: Splits = [
    (Split::Train, &[&["the cat sat…", "on the ⏸ mat■…", "cat■"]]),
    (Split::Validation, &[]),
];

const GOLDEN: [Golden; 5] = [
    Golden {
        name: "v2-finetune-u16",
        format: ShardFormat::Binary,
        stage: Stage::Finetune,
        tokenizer: byte_level,
        splits: FINETUNE,
        aux: false,
    },
    Golden {
        name: "v2-pretrain-u32",
        format: ShardFormat::Binary,
        stage: Stage::Pretrain,
        tokenizer: word_level,
        splits: PRETRAIN,
        aux: false,
    },
    Golden {
        name: "v2-blocks-u16",
        format: ShardFormat::Binary,
        stage: Stage::Pretrain,
        tokenizer: byte_level,
        splits: LONG,
        aux: false,
    },
    Golden {
        name: "v1-parquet-finetune-u16",
        format: ShardFormat::Parquet,
        stage: Stage::Finetune,
        tokenizer: byte_level,
        splits: FINETUNE,
        aux: false,
    },
    Golden {
        name: "v1-parquet-pretrain-u32",
        format: ShardFormat::Parquet,
        stage: Stage::Pretrain,
        tokenizer: word_level,
        splits: PRETRAIN,
        aux: false,
    },
];

/// Binary datasets of version 1, which nothing writes any more.
fn of_version_1() -> [Golden; 2] {
    let [mut finetune, mut pretrain, ..] = GOLDEN;
    (finetune.name, pretrain.name) = ("v1-finetune-u16", "v1-pretrain-u32");
    [finetune, pretrain]
}

/// Datasets of both formats whose shards have all the files that there are; they are not kept.
fn with_aux() -> [Golden; 2] {
    let [finetune, _, _, parquet, _] = GOLDEN;
    [finetune, parquet].map(|golden| Golden {
        aux: true,
        ..golden
    })
}

/// What a policy stores beside the ids of rows that have an `.aux`.
fn stored_config() -> pause::Config {
    pause::Config {
        token: pause::Token::Filler("t".into()),
        target: pause::Rule::Emit,
        ..pause::Policy::Suffix {
            count: pause::Count::Fixed(2),
        }
        .into()
    }
}

fn config() -> Config {
    Config {
        file: None,
        train: Some(Training {
            vocab_size: 262,
            sample_bytes: 1000,
        }),
        pause: "⏸".into(),
        end: "■".into(),
        pad: "□".into(),
        pause_tokens: Default::default(),
        parse_special: false,
    }
}

fn byte_level() -> Tokenizer {
    let text = "the cat sat on the mat; the cat sat.";
    Tokenizer::train(&mut [Ok(text.to_owned())].into_iter(), &config()).unwrap()
}

/// A vocabulary with ids on both sides of 65,536.
fn word_level() -> Tokenizer {
    let special = |id: u32, content: &str| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true })
    };
    let json = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special(70_000, "⏸"), special(70_001, "■"), special(70_002, "□")],
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "unk_token": "?", "vocab": {
            "?": 0, "the": 1, "cat": 65_535, "sat": 65_536, "mat": 69_999,
            "⏸": 70_000, "■": 70_001, "□": 70_002 } },
    });
    let reserved = crate::token::Reserved {
        pause: TokenId(70_000),
        end: TokenId(70_001),
        pad: TokenId(70_002),
        extra: Default::default(),
    };
    let bytes = serde_json::to_vec_pretty(&json).unwrap();
    Tokenizer::from_json(&bytes, reserved, SpecialText::Ordinary).unwrap()
}

impl Golden {
    /// Ids of the longest row.
    fn row_length(&self) -> usize {
        match self.splits[0].1[0][0].ends_with('…') {
            // A block has one row.
            true => 2050,
            false => 48,
        }
    }

    /// The row that a drawing shows; `…` fills it with what stands before.
    fn row(&self, tokenizer: &Tokenizer, drawing: &str) -> Sequence {
        if let Some(some) = drawing.strip_suffix('…') {
            let some = self.row(tokenizer, some).ids.into_iter().cycle();
            return Sequence::plain(some.take(self.row_length()).collect());
        }
        let ids = |text: &str| {
            let mut ids = Vec::new();
            let reserved = tokenizer.reserved();
            for piece in text.split_inclusive(['⏸', '■']) {
                tokenizer
                    .encode(piece.trim_end_matches(['⏸', '■']), &mut ids)
                    .unwrap();
                ids.extend(piece.ends_with('⏸').then_some(reserved.pause));
                ids.extend(piece.ends_with('■').then_some(reserved.end));
            }
            ids
        };
        let mut row = match (self.stage, drawing.split_once('|')) {
            (Stage::Finetune, Some((prefix, target))) => {
                Sequence::example(&ids(prefix), &ids(target))
            }
            _ => Sequence::plain(ids(drawing)),
        };
        if self.aux {
            let pauses = tokenizer.reserved().into();
            row.stored = Some(Box::new(Stored {
                inserted: (0..row.len()).map(|at| row.is_pause(at, pauses)).collect(),
                targets: row.ids.clone(),
                weights: vec![0.5; row.len()],
            }));
        }
        row
    }

    fn generate(&self, folder: &Path) -> Digest {
        let tokenizer = (self.tokenizer)();
        fs::write(&folder.join(TOKENIZER_FILE), tokenizer.to_json()).unwrap();
        let mut splits = BTreeMap::new();
        let mut ledger = Ledger::default();
        for (split, shards) in self.splits {
            let mut record = SplitRecord::default();
            for (unit, rows) in (0..).zip(shards) {
                let name = format!("{split}-{unit:05}-000");
                let spec = self.shard(&tokenizer, unit);
                let mut writer = ShardWriter::create(folder, &name, &spec).unwrap();
                for drawing in *rows {
                    writer.push(&self.row(&tokenizer, drawing)).unwrap();
                    writer.document(document(ledger.read, drawing));
                    ledger.keep();
                }
                record.totals += &Totals {
                    rows: writer.rows(),
                    documents: rows.len() as u64,
                    ..Totals::default()
                };
                record.shards.push(writer.finish().unwrap());
            }
            splits.insert(split, record);
        }
        let manifest = self.manifest(&tokenizer, splits, ledger);
        manifest.seal(folder).unwrap()
    }

    fn shard(&self, tokenizer: &Tokenizer, unit: u32) -> ShardSpec {
        ShardSpec {
            format: self.format,
            id_width: IdWidth::for_vocabulary(tokenizer.vocab_size()),
            vocab_size: tokenizer.vocab_size(),
            reserved: tokenizer.reserved(),
            row_length: self.row_length(),
            stage: self.stage,
            tokenizer: tokenizer.digest(),
            unit,
            part: 0,
            fields: match self.aux {
                true => stored_config().fields(),
                false => Default::default(),
            },
        }
    }

    fn manifest(
        &self,
        tokenizer: &Tokenizer,
        splits: BTreeMap<Split, SplitRecord>,
        ledger: Ledger,
    ) -> Manifest {
        Manifest {
            format: FORMAT,
            stage: self.stage,
            seed: 1,
            recipe: json!({ "golden": self.name }),
            tokenizer: TokenizerRecord {
                digest: tokenizer.digest(),
                vocab_size: tokenizer.vocab_size(),
                reserved: tokenizer.reserved(),
                begin: None,
            },
            id_width: IdWidth::for_vocabulary(tokenizer.vocab_size()),
            shard_format: self.format,
            row_length: self.row_length(),
            pause: match self.stage {
                _ if self.aux => stored_config(),
                Stage::Finetune => pause::Policy::Suffix {
                    count: pause::Count::Fixed(2),
                }
                .into(),
                Stage::Pretrain => pause::Policy::None.into(),
            },
            corpus: vec![FileRecord {
                version: None,
                name: "golden.txt".into(),
                source: 0,
                bytes: 0,
                span: None,
                documents: ledger.read,
            }],
            splits,
            ledger,
            contamination: Vec::new(),
            rejects: Vec::new(),
        }
    }
}

/// The document that a drawing stands for.
fn document(row: u64, drawing: &str) -> DocumentRecord {
    DocumentRecord {
        id: DocumentId { file: 0, row },
        text_bytes: drawing.len() as u64,
        checksum: checksum(drawing.as_bytes()),
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = fs::list(folder).unwrap();
    files.retain(|path| path.is_file());
    files.extend(fs::list(&folder.join(SHARDS)).unwrap());
    files
}

fn kept(golden: &Golden) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data/golden")
        .join(golden.name)
}

#[test]
fn golden_datasets_are_made_with_the_same_bytes() {
    for golden in GOLDEN {
        let kept = kept(&golden);
        // As with expect-test: a wanted change of the format is written by this variable.
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            if kept.exists() {
                fs::remove_dir(&kept).unwrap();
            }
            golden.generate(&kept);
        }
        let folder = tempfile::tempdir().unwrap();
        golden.generate(folder.path());
        let names = |folder: &Path| -> Vec<PathBuf> {
            files(folder)
                .iter()
                .map(|path| path.strip_prefix(folder).unwrap().to_path_buf())
                .collect()
        };
        assert_eq!(names(folder.path()), names(&kept), "{}", golden.name);
        for name in names(&kept) {
            let (made, kept) = (folder.path().join(&name), kept.join(&name));
            assert!(
                fs::read(&made).unwrap() == fs::read(&kept).unwrap(),
                "{} changed",
                kept.display()
            );
        }
    }
}

#[test]
fn golden_datasets_open_and_hold_what_was_written() {
    for golden in GOLDEN.into_iter().chain(of_version_1()) {
        let dataset = Dataset::open(&kept(&golden)).unwrap();
        let tokenizer = dataset.tokenizer().unwrap();
        for (split, shards) in golden.splits {
            assert_eq!(dataset.shards(split).len(), shards.len());
            let mut index = 0;
            for (shard, rows) in dataset.shards(split).iter().zip(shards) {
                assert_eq!(shard.rows(), rows.len() as u64);
                for (document, drawing) in shard.documents().unwrap().iter().zip(*rows) {
                    assert_eq!(document.checksum, checksum(drawing.as_bytes()));
                    let row = dataset.row(split, index).unwrap();
                    assert_eq!(
                        row,
                        golden.row(&tokenizer, drawing),
                        "{} {split} {index}",
                        golden.name
                    );
                    if golden.stage == Stage::Finetune {
                        assert_eq!(
                            tokenizer.decode(&row.ids).unwrap(),
                            drawing.replace('|', "")
                        );
                    }
                    index += 1;
                }
                shard.verify().unwrap();
            }
            assert_eq!(dataset.rows(split), index);
            let error = dataset.row(split, index).unwrap_err();
            let expected =
                format!("the {split} split has {index} rows, so none with index {index}");
            assert_eq!(error.to_string(), expected);
        }
    }
}

#[test]
fn golden_manifests_satisfy_the_schema() {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/manifest.schema.json");
    let schema = serde_json::from_slice(&fs::read(&schema).unwrap()).unwrap();
    for golden in GOLDEN {
        let bytes = fs::read(&kept(&golden).join(manifest::FILE)).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert!(jsonschema::is_valid(&schema, &json), "{}", golden.name);
        json["splits"]["test"] = json!({});
        assert!(
            !jsonschema::is_valid(&schema, &json),
            "the schema must name every split"
        );
    }
}
