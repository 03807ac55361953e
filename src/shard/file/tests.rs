use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::document::DocumentId;
use crate::fs;
use crate::manifest::Stage;
use crate::manifest::{FORMAT, FileRecord, Ledger, TokenizerRecord};
use crate::pause;
use crate::shard::layout::{BLOCK_BYTES_MAX, IDS_MAX};
use crate::shard::{ShardSpec, ShardWriter};
use crate::token::IdWidth;

const FORMATS: [ShardFormat; 2] = [ShardFormat::Binary, ShardFormat::Parquet];

fn spec(vocab_size: u32, row_length: usize, stage: Stage) -> ShardSpec {
    ShardSpec {
        format: ShardFormat::Binary,
        id_width: IdWidth::for_vocabulary(vocab_size),
        vocab_size,
        reserved: Reserved {
            pause: TokenId(vocab_size - 3),
            end: TokenId(vocab_size - 2),
            pad: TokenId(vocab_size - 1),
            extra: Default::default(),
        },
        row_length,
        stage,
        tokenizer: Digest::of(b"tokenizer"),
        unit: 1,
        part: 0,
        fields: Default::default(),
    }
}

fn manifest(spec: &ShardSpec) -> Manifest {
    Manifest {
        format: FORMAT,
        stage: spec.stage,
        seed: 1,
        recipe: serde_json::Value::Null,
        tokenizer: TokenizerRecord {
            digest: spec.tokenizer,
            vocab_size: spec.vocab_size,
            reserved: spec.reserved,
            begin: None,
        },
        id_width: spec.id_width,
        shard_format: spec.format,
        row_length: spec.row_length,
        pause: pause::Policy::None.into(),
        corpus: vec![FileRecord {
            version: None,
            name: "a.txt".into(),
            source: 0,
            bytes: 0,
            span: None,
            documents: 0,
        }],
        splits: BTreeMap::new(),
        ledger: Ledger::default(),
        contamination: Vec::new(),
        rejects: Vec::new(),
    }
}

fn document(row: u64) -> DocumentRecord {
    DocumentRecord {
        id: DocumentId { file: 0, row },
        text_bytes: 3 * row,
        checksum: !row,
    }
}

fn write(folder: &Path, spec: &ShardSpec, rows: &[Sequence]) -> Result<ShardRecord, Error> {
    let mut writer = ShardWriter::create(folder, "a", spec)?;
    for (n, row) in (0..).zip(rows) {
        writer.push(row)?;
        writer.document(document(n));
    }
    writer.finish()
}

/// Writes, opens, and reads every row and document again, in both formats.
fn round_trip(spec: &ShardSpec, rows: &[Sequence]) -> Result<(), TestCaseError> {
    for format in FORMATS {
        round_trip_as(
            &ShardSpec {
                format,
                ..spec.clone()
            },
            rows,
        )?;
    }
    Ok(())
}

fn round_trip_as(spec: &ShardSpec, rows: &[Sequence]) -> Result<(), TestCaseError> {
    let folder = tempfile::tempdir().unwrap();
    let record = write(folder.path(), spec, rows).unwrap();
    let shard = Shard::open(folder.path(), &record, &manifest(spec)).unwrap();
    prop_assert_eq!(shard.rows(), rows.len() as u64);
    prop_assert_eq!(
        record.ids,
        rows.iter().map(|row| row.len() as u64).sum::<u64>()
    );
    for (index, row) in (0..).zip(rows) {
        prop_assert_eq!(&shard.row(index).unwrap(), row);
    }
    let none = shard.row(rows.len() as u64).unwrap_err();
    let is_no_row = matches!(none, Error::NoRow { .. });
    prop_assert!(is_no_row);
    let documents: Vec<_> = (0..rows.len() as u64).map(document).collect();
    prop_assert_eq!(shard.documents().unwrap(), documents);
    shard.verify().unwrap();
    if spec.format == ShardFormat::Parquet {
        return Ok(());
    }
    // The bytes are what any other program expects: a header, then plain ids.
    let bytes = fs::read(&folder.path().join("shards/a.bin")).unwrap();
    let ids = rows.iter().flat_map(|row| &row.ids);
    let plain: Vec<u8> = match spec.id_width {
        IdWidth::U16 => ids
            .flat_map(|id| u16::try_from(id.0).unwrap().to_le_bytes())
            .collect(),
        IdWidth::U32 => ids.flat_map(|id| id.0.to_le_bytes()).collect(),
    };
    prop_assert_eq!(&bytes[HEADER_BYTES..], plain);
    Ok(())
}

fn row(ids: &[u32]) -> Sequence {
    Sequence::plain(ids.iter().copied().map(TokenId).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rows_come_back(
        (vocab_size, rows) in prop_oneof![Just(300u32), Just(65_536), Just(65_537), Just(1 << 24)]
            .prop_flat_map(|vocab_size| {
                let id = prop_oneof![0..vocab_size, Just(0), Just(vocab_size - 1), Just(65_535.min(vocab_size - 1))];
                let row = prop::collection::vec(id, 0..40);
                (Just(vocab_size), prop::collection::vec((row, any::<prop::sample::Index>()), 0..12))
            }),
        finetune in any::<bool>(),
    ) {
        let stage = if finetune { Stage::Finetune } else { Stage::Pretrain };
        let rows: Vec<Sequence> = rows.iter().map(|(ids, prefix)| Sequence {
            prefix: finetune.then(|| u32::try_from(prefix.index(ids.len() + 1)).unwrap()),
            ..row(ids)
        }).collect();
        round_trip(&spec(vocab_size, 40, stage), &rows)?;
    }
}

#[test]
fn ids_at_the_borders_of_a_width_come_back() {
    let cases: [(u32, &[u32], IdWidth); 3] = [
        (65_536, &[0, 65_535], IdWidth::U16),
        (65_537, &[0, 65_535, 65_536], IdWidth::U32),
        (1 << 31, &[0, 65_535, 65_536, (1 << 31) - 1], IdWidth::U32),
    ];
    for (vocab_size, ids, width) in cases {
        let spec = spec(vocab_size, 8, Stage::Pretrain);
        assert_eq!(spec.id_width, width);
        round_trip(&spec, &[row(ids), row(&[]), row(&ids[1..2])]).unwrap();
        round_trip(&spec, &[]).unwrap();
    }
}

#[test]
fn rows_cross_blocks() {
    for vocab_size in [65_536, 65_537] {
        let spec = spec(vocab_size, 300_000, Stage::Pretrain);
        let ids: Vec<u32> = (0..300_000u32)
            .map(|n| n.wrapping_mul(2_654_435_761) % vocab_size)
            .collect();
        // The last row ends exactly where a block of 1 MiB does.
        let n_per_block = u32::try_from(BLOCK_BYTES_MAX / spec.id_width.bytes()).unwrap() as usize;
        let left = (3 * n_per_block - 600_007) % 300_000;
        let mut rows = vec![row(&ids), row(&ids[..7]), row(&ids)];
        rows.extend(std::iter::repeat_n(
            row(&ids),
            (3 * n_per_block - 600_007) / 300_000,
        ));
        rows.push(row(&ids[..left]));
        round_trip(&spec, &rows).unwrap();
    }
}

#[test]
fn a_row_touches_only_its_own_blocks() {
    // Ids of a row, the row whose first id is damaged, and those that share its blocks: long
    // rows lie in two, others in one, which short ones share.
    let cases = [
        (BLOCK_BYTES_MAX / 2 + 1, 3, vec![2, 3]),
        (2049, 3, vec![3]),
        (1024, 2, vec![2, 3]),
        (700, 4, vec![3, 4, 5]),
    ];
    for (length, bad, refused) in cases {
        let folder = tempfile::tempdir().unwrap();
        let spec = spec(300, length, Stage::Pretrain);
        let rows = vec![row(&vec![7; length]); 6];
        let record = write(folder.path(), &spec, &rows).unwrap();
        let path = folder.path().join("shards/a.bin");
        let at = HEADER_BYTES + bad * length * 2;
        change(&path, at, |byte| byte ^ 1);
        // Of two blocks of a row, either may have been found right with the row before.
        for (reading, first) in [(Reading::Mmap, 0), (Reading::Mmap, 1), (Reading::Pread, 1)] {
            let open =
                || Shard::open_by(reading, folder.path(), &record, &manifest(&spec)).unwrap();
            let shard = open();
            let block = (at - HEADER_BYTES) / shard.header().block_bytes();
            let named = format!("checksum of block {block} (bytes ");
            for index in first..6 {
                let read = shard.row(index);
                if !refused.contains(&index) {
                    assert_eq!(read.unwrap(), rows[0], "{length} {index}");
                    continue;
                }
                let error = read.unwrap_err();
                let said = error.to_string();
                assert!(said.contains("a.bin` is damaged"), "{said}");
                assert!(said.contains(&named), "{said}");
                assert!(error.hint().is_some());
            }
            let said = open().verify().unwrap_err().to_string();
            assert!(said.contains(&named), "{said}");
        }
    }
}

/// Replaces one byte of a file in place.
fn change(path: &Path, at: usize, with: impl Fn(u8) -> u8) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    file.write_all_at(&[with(byte[0])], at as u64).unwrap();
}

/// Blocks of Parquet shards hold other things than ids, too, so that rows are looked at.
#[test]
fn an_id_of_a_parquet_row_is_in_the_vocabulary_or_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let spec = ShardSpec {
        format: ShardFormat::Parquet,
        ..spec(300, 4, Stage::Pretrain)
    };
    let record = write(folder.path(), &spec, &[row(&[5, 6, 7, 8]), row(&[1, 2, 3])]).unwrap();
    let path = folder.path().join("shards/a.parquet");
    let second: Vec<u8> = [1, 2, 3].into_iter().flat_map(u32::to_le_bytes).collect();
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(12).position(|ids| ids == second).unwrap();
    change(&path, at + 5, |_| 2);
    let shard = Shard::open(folder.path(), &record, &manifest(&spec)).unwrap();
    shard.trust_blocks();
    assert_eq!(shard.row(0).unwrap(), row(&[5, 6, 7, 8]));
    let said = shard.row(1).unwrap_err().to_string();
    for part in [
        "a.parquet`",
        "position 1 of row 1",
        "an id below 300",
        "514",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn rows_that_must_not_be_written_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |stage, row: Sequence| {
        let mut writer = ShardWriter::create(folder.path(), "a", &spec(300, 4, stage)).unwrap();
        writer
            .push(&Sequence {
                ids: vec![TokenId(1)],
                prefix: (stage == Stage::Finetune).then_some(0),
                ..Sequence::default()
            })
            .unwrap();
        let error = writer.push(&row).unwrap_err();
        // A refused row leaves no trace.
        assert_eq!((writer.rows(), writer.ids()), (1, 1));
        error.to_string()
    };
    let with_prefix = |prefix| Sequence {
        prefix: Some(prefix),
        ..row(&[1, 2])
    };
    let cases = [
        (
            Stage::Pretrain,
            row(&[1, 300]),
            "id 300 at position 1 is outside the vocabulary of 300 ids",
        ),
        (
            Stage::Pretrain,
            row(&[1, 2, 3, 4, 5]),
            "it has 5 ids, and rows have 4 at most",
        ),
        (
            Stage::Pretrain,
            with_prefix(1),
            "it has a prefix, and this is a pretraining shard",
        ),
        (
            Stage::Finetune,
            row(&[1]),
            "it has no prefix boundary, and this is a finetuning shard",
        ),
        (
            Stage::Finetune,
            with_prefix(3),
            "its prefix of 3 ids is longer than its 2 ids",
        ),
    ];
    for (stage, row, expected) in cases {
        let expected = format!("cannot write row 1 of shard `a`: {expected}");
        assert_eq!(refused(stage, row), expected);
    }
    assert!(fs::list(&folder.path().join(SHARDS)).unwrap().is_empty());
}

#[test]
fn a_shard_stays_below_two_to_the_31_ids() {
    let folder = tempfile::tempdir().unwrap();
    let mut writer =
        ShardWriter::create(folder.path(), "a", &spec(300, 4, Stage::Pretrain)).unwrap();
    writer.header.ids = IDS_MAX - 4;
    writer.push(&row(&[1, 2, 3])).unwrap();
    let error = writer.push(&row(&[1])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot write row 1 of shard `a`: the shard would hold 2147483648 ids, and shards hold fewer than 2^31"
    );
    writer.push(&row(&[])).unwrap();
}

#[test]
fn impossible_shards_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = spec(300, 4, Stage::Pretrain);
    let refused = |name: &str, spec: &ShardSpec| {
        ShardWriter::create(folder.path(), name, spec)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused("../a", &good),
        "cannot write shard `../a`: name of the shard: expected letters, digits, `-` and `_`, found ../a"
    );
    let narrow = ShardSpec {
        vocab_size: 65_537,
        ..good.clone()
    };
    assert_eq!(
        refused("a", &narrow),
        "cannot write shard `a`: vocabulary size: expected at most 65536 for ids of two bytes, found 65537"
    );
    let record = ShardRecord {
        name: "../../etc/passwd".into(),
        rows: 0,
        ids: u64::MAX,
        documents: u64::MAX,
        bin: Some(Digest::of(b"")),
        parquet: None,
        idx: Digest::of(b""),
        aux: None,
    };
    assert!(Shard::open(folder.path(), &record, &manifest(&good)).is_err());
    let hostile = ShardRecord {
        name: "a".into(),
        ..record
    };
    let real = write(folder.path(), &good, &[row(&[1])]).unwrap();
    assert!(Shard::open(folder.path(), &hostile, &manifest(&good)).is_err());
    let hostile = ShardRecord {
        documents: u64::MAX,
        ..real
    };
    assert!(Shard::open(folder.path(), &hostile, &manifest(&good)).is_err());
}

#[test]
fn a_shard_of_another_dataset_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = spec(300, 4, Stage::Pretrain);
    let record = write(folder.path(), &good, &[row(&[1, 2])]).unwrap();
    let open = |spec: &ShardSpec| Shard::open(folder.path(), &record, &manifest(spec));
    open(&good).unwrap();
    let others = [
        ShardSpec {
            tokenizer: Digest::of(b"other"),
            ..good.clone()
        },
        ShardSpec {
            vocab_size: 301,
            ..good.clone()
        },
        ShardSpec {
            row_length: 5,
            ..good.clone()
        },
        ShardSpec {
            stage: Stage::Finetune,
            ..good.clone()
        },
    ];
    for other in others {
        let error = open(&other).unwrap_err().to_string();
        assert!(
            error.contains("a.bin` is damaged or another file"),
            "{error}"
        );
    }
}
