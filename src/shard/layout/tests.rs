use proptest::prelude::*;

use super::*;
use crate::document::DocumentId;
use crate::shard::index::{DocumentRecord, FOOTER_BYTES, Home, Index, IndexParts};

fn header(stage: Stage) -> Header {
    Header {
        version: Version::NEWEST,
        ids: 7,
        rows: 3,
        id_width: IdWidth::U16,
        vocab_size: 300,
        reserved: Reserved {
            pause: TokenId(297),
            end: TokenId(298),
            pad: TokenId(299),
            extra: Default::default(),
        },
        row_length: 5,
        stage,
        unit: 4,
        part: 2,
        tokenizer: Digest::of(b"tokenizer"),
    }
}

fn parts(stage: Stage) -> IndexParts {
    let document = |row| DocumentRecord {
        id: DocumentId { file: 1, row },
        text_bytes: 10 + row,
        checksum: 99,
    };
    IndexParts {
        lengths: vec![2, 0, 5],
        runs: vec![],
        blocks: vec![0x1234_5678_9abc_def0],
        prefixes: match stage {
            Stage::Finetune => vec![1, 0, 5],
            Stage::Pretrain => vec![],
        },
        documents: vec![document(8), document(9)],
    }
}

fn parse(bytes: &[u8]) -> Result<Header, Fault> {
    RawHeader::parse(bytes)?.check()
}

/// Puts the right checksum after bytes that were changed.
fn resum(bytes: &mut [u8]) {
    let at = bytes.len() - 8;
    let sum = checksum(&bytes[..at]).to_le_bytes();
    bytes[at..].copy_from_slice(&sum);
}

#[test]
fn a_header_starts_as_llm_c_wants_and_comes_back() {
    for stage in [Stage::Pretrain, Stage::Finetune] {
        let bytes = header(stage).to_bytes();
        assert_eq!(bytes.len(), HEADER_BYTES);
        assert_eq!(parse(&bytes), Ok(header(stage)));
        let words: Vec<u32> = bytes
            .chunks(4)
            .map(|w| u32::from_le_bytes(w.try_into().unwrap()))
            .collect();
        assert_eq!(words[..3], [20_240_520, 1, 7]);
        let wide = Header {
            id_width: IdWidth::U32,
            ..header(stage)
        };
        assert_eq!(parse(&wide.to_bytes()), Ok(wide.clone()));
        assert_eq!(
            &wide.to_bytes()[..8],
            [20_240_801u32.to_le_bytes(), 7u32.to_le_bytes()].concat()
        );
    }
}

#[test]
fn an_index_comes_back() {
    for stage in [Stage::Pretrain, Stage::Finetune] {
        let (header, parts) = (header(stage), parts(stage));
        let bytes = parts.to_bytes(&header, Home::Binary);
        assert_eq!(
            Index::length(&header, Home::Binary, 2),
            Some(bytes.len() as u64)
        );
        let index = Index::parse(&bytes, &header, Home::Binary).unwrap();
        let prefix = |n| (stage == Stage::Finetune).then_some(n);
        assert_eq!(index.row(&bytes, 0), Some((1024, 2, prefix(1))));
        assert_eq!(index.row(&bytes, 1), Some((1028, 0, prefix(0))));
        assert_eq!(index.row(&bytes, 2), Some((1028, 5, prefix(5))));
        assert_eq!(index.row(&bytes, 3), None);
        assert_eq!(index.row(&bytes, u64::MAX), None);
        assert_eq!(
            bytes[index.block(0)..][..8],
            0x1234_5678_9abc_def0u64.to_le_bytes()
        );
        assert_eq!(index.documents(&bytes), parts.documents);
    }
}

#[test]
fn every_changed_or_missing_byte_is_found() {
    for stage in [Stage::Pretrain, Stage::Finetune] {
        let good = header(stage);
        let bytes = good.to_bytes();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(parse(&changed).is_err(), "byte {at} of the header");
            assert!(parse(&bytes[..at]).is_err(), "header cut at {at}");
        }
        let bytes = parts(stage).to_bytes(&good, Home::Binary);
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(
                Index::parse(&changed, &good, Home::Binary).is_err(),
                "byte {at} of the index"
            );
            assert!(
                Index::parse(&bytes[..at], &good, Home::Binary).is_err(),
                "index cut at {at}"
            );
            // With its checksum made right, only provenance and block sums may differ.
            if at < bytes.len() - 8 {
                resum(&mut changed);
                let free = 42 + 20 * 3..bytes.len() - FOOTER_BYTES;
                let accepted = Index::parse(&changed, &good, Home::Binary).is_ok();
                assert!(
                    !accepted || free.contains(&at),
                    "byte {at} of the index, resummed"
                );
            }
        }
    }
}

#[test]
fn fields_that_contradict_one_another_are_named() {
    let field = |change: fn(&mut Header)| {
        let mut header = header(Stage::Pretrain);
        change(&mut header);
        parse(&header.to_bytes()).unwrap_err().field
    };
    assert_eq!(field(|h| h.vocab_size = 65_537), "vocabulary size");
    assert_eq!(field(|h| h.vocab_size = 299), "pad id");
    assert_eq!(field(|h| h.reserved.end = h.reserved.pause), "reserved ids");
    assert_eq!(field(|h| h.row_length = 0), "row length");
    assert_eq!(field(|h| h.ids = IDS_MAX), "count of ids");
    assert_eq!(field(|h| h.ids = 1 << 32), "llm.c count of ids");
    let mut zeros = header(Stage::Pretrain).to_bytes();
    zeros[1000] = 1;
    resum(&mut zeros);
    assert_eq!(
        parse(&zeros).unwrap_err().field,
        "zeros before the header's checksum"
    );
}

/// A version says what its blocks are, and a reader believes no other number.
#[test]
fn bytes_of_a_block_are_those_of_the_version() {
    let of_version = |version| Header {
        version,
        ..header(Stage::Pretrain)
    };
    for (version, right, wrong) in [
        (Version::One, 0, [10, 1 << 20]),
        // Rows of 5 ids of 2 bytes, as many as reach 4 KiB.
        (Version::Two, 4100, [0, 4090]),
    ] {
        let mut bytes = of_version(version).to_bytes();
        assert_eq!(bytes[116..120], u32::to_le_bytes(right));
        for wrong in wrong {
            bytes[116..120].copy_from_slice(&u32::to_le_bytes(wrong));
            resum(&mut bytes);
            assert_eq!(parse(&bytes).unwrap_err().field, "bytes of a block");
        }
    }
    let mut bytes = of_version(Version::Two).to_bytes();
    for (number, accepted) in [(0, false), (1, false), (2, true), (3, false)] {
        bytes[28..32].copy_from_slice(&u32::to_le_bytes(number));
        resum(&mut bytes);
        assert_eq!(parse(&bytes).is_ok(), accepted, "version {number}");
    }
    // Of rows in ids and an id in bytes: one row, several, or a part of one.
    for (row_length, id_width, expected) in [
        (2049, IdWidth::U16, 4098),
        (2049, IdWidth::U32, 8196),
        (2048, IdWidth::U16, 4096),
        (1, IdWidth::U16, 4096),
        (524_287, IdWidth::U16, 1_048_574),
        (524_288, IdWidth::U16, 1 << 20),
        (300_000, IdWidth::U32, 1 << 20),
        (u32::MAX, IdWidth::U32, 1 << 20),
    ] {
        let header = Header {
            row_length,
            id_width,
            ..header(Stage::Pretrain)
        };
        assert_eq!(header.block_bytes(), expected, "{row_length}");
        let old = Header {
            version: Version::One,
            ..header
        };
        assert_eq!(old.block_bytes(), 1 << 20);
    }
}

proptest! {
    /// Hostile bytes under right checksums: an error or a value, never a panic.
    #[test]
    fn hostile_bytes_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        finetune in any::<bool>(),
    ) {
        let stage = if finetune { Stage::Finetune } else { Stage::Pretrain };
        let mut head = header(stage).to_bytes();
        let mut index = parts(stage).to_bytes(&header(stage), Home::Binary);
        for (at, byte) in &changes {
            let n = head.len() - 8;
            // Most of a header is zero: aim at its fields.
            head[at.index(n) % 130] = *byte;
            let n = index.len() - 8;
            index[at.index(n)] = *byte;
        }
        resum(&mut head);
        resum(&mut index);
        let header = parse(&head).unwrap_or_else(|_| header(stage));
        if let Ok(parsed) = Index::parse(&index, &header, Home::Binary) {
            for row in 0..header.rows {
                let (start, length, _) = parsed.row(&index, row).unwrap();
                let bytes = usize::from(id_bytes(header.id_width)) * length;
                prop_assert!((start + bytes) as u64 <= 1024 + header.ids_bytes());
            }
        }
    }
}
