//! What was written comes back, and what was changed is found.

use super::*;
use crate::manifest::{SHARDS, Stage};
use crate::sequence::drawing::RESERVED;
use crate::token::IdWidth;

fn bin(ids: u64) -> Header {
    Header {
        version: Version::NEWEST,
        ids,
        rows: 1,
        id_width: IdWidth::U16,
        vocab_size: 300,
        reserved: RESERVED,
        row_length: 1 << 20,
        stage: Stage::Pretrain,
        unit: 0,
        part: 0,
        tokenizer: Digest::of(b"tokenizer"),
    }
}

fn row(length: usize, fields: Fields) -> Sequence {
    let ids = (0..u32::try_from(length).unwrap()).map(|id| TokenId(id % 300));
    let wanted = |wanted: bool| if wanted { length } else { 0 };
    let numbers = 0..u16::try_from(wanted(fields.targets) % 60_000).unwrap();
    let weights: Vec<f32> = numbers.map(|n| f32::from(n) / 4.0).collect();
    let stored = Stored {
        inserted: (0..wanted(fields.inserted)).map(|at| at % 3 == 0).collect(),
        targets: ids.clone().take(wanted(fields.targets)).collect(),
        weights: weights
            .iter()
            .cycle()
            .take(wanted(fields.targets))
            .copied()
            .collect(),
    };
    Sequence {
        ids: ids.collect(),
        stored: Some(Box::new(stored)),
        ..Sequence::default()
    }
}

fn write(folder: &Path, fields: Fields, lengths: &[usize]) -> (PathBuf, Header, Digest) {
    crate::fs::create_dir(&folder.join(SHARDS)).unwrap();
    let path = folder.join(SHARDS).join("a.aux");
    let mut writer = AuxWriter::create(&path, fields, &bin(0)).unwrap();
    for length in lengths {
        let row = row(*length, fields);
        assert!(writer.holds(&row) && !writer.holds(&Sequence::plain(row.ids.clone())));
        writer.push(&row).unwrap();
    }
    let bin = bin(lengths.iter().sum::<usize>() as u64);
    let digest = writer.finish(&bin).unwrap().unwrap();
    assert_eq!(digest, Digest::of_file(&path).unwrap());
    (path, bin, digest)
}

const ALL: [Fields; 3] = [
    Fields {
        inserted: true,
        targets: false,
    },
    Fields {
        inserted: false,
        targets: true,
    },
    Fields {
        inserted: true,
        targets: true,
    },
];

#[test]
fn a_block_has_the_records_of_a_block_of_ids() {
    for (fields, record) in ALL.into_iter().zip([1, 8, 9]) {
        for (row_length, id_width, ids) in [
            (2049, IdWidth::U16, 2049),
            (2049, IdWidth::U32, 2049),
            (700, IdWidth::U16, 2100),
            (1 << 20, IdWidth::U32, 1 << 18),
        ] {
            let bin = Header {
                row_length,
                id_width,
                ..bin(0)
            };
            assert_eq!(block_bytes(fields, &bin), ids * record, "{row_length}");
        }
        let old = Header {
            version: Version::One,
            row_length: 2049,
            ..bin(0)
        };
        assert_eq!(block_bytes(fields, &old), 1 << 20);
    }
}

#[test]
fn rows_come_back_across_blocks() {
    for fields in ALL {
        let folder = tempfile::tempdir().unwrap();
        let lengths = [3, 0, 1, 200_000, 7];
        let (path, bin, digest) = write(folder.path(), fields, &lengths);
        let aux = Aux::open(path, (fields, Some(digest)), &bin, Reading::Mmap)
            .unwrap()
            .unwrap();
        let mut start = 0;
        for length in lengths {
            let expected = *row(length, fields).stored.unwrap();
            let mut stored = Stored::default();
            aux.row(start..start + length, &mut stored).unwrap();
            assert!(stored == expected);
            start += length;
        }
        aux.verify().unwrap();
    }
}

#[test]
fn a_flipped_byte_or_a_cut_is_found() {
    let fields = ALL[2];
    let folder = tempfile::tempdir().unwrap();
    let (path, bin, digest) = write(folder.path(), fields, &[20, 30]);
    let whole = crate::fs::read(&path).unwrap();
    let read = || {
        let aux = Aux::open(path.clone(), (fields, Some(digest)), &bin, Reading::Mmap)?;
        aux.unwrap().row(0..50, &mut Stored::default())
    };
    read().unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        crate::fs::write(&path, &bytes).unwrap();
        let error = read().unwrap_err().to_string();
        assert!(error.contains("a.aux` is damaged"), "byte {at}: {error}");
    }
    for length in 0..whole.len() {
        crate::fs::write(&path, &whole[..length]).unwrap();
        assert!(read().is_err(), "{length} bytes");
    }
}

#[test]
fn the_manifest_must_name_what_its_policy_stores() {
    let path = || PathBuf::from("a.aux");
    let digest = Some(Digest::of(b""));
    assert!(
        Aux::open(path(), (Fields::default(), None), &bin(1), Reading::Mmap)
            .unwrap()
            .is_none()
    );
    assert!(Aux::open(path(), (Fields::default(), digest), &bin(1), Reading::Mmap).is_err());
    assert!(Aux::open(path(), (ALL[0], None), &bin(1), Reading::Mmap).is_err());
}
