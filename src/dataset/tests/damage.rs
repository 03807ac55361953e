//! Files that were changed, cut, swapped or lost: an error that names them, or the rows as
//! they are.

use super::*;

/// Opens a dataset and reads all of it.
fn read_all(folder: &Path) -> Result<(), Error> {
    read_all_by(Reading::Mmap, folder)
}

fn read_all_by(reading: Reading, folder: &Path) -> Result<(), Error> {
    let dataset = Dataset::open_by(reading, folder)?;
    for split in [Split::Train, Split::Validation] {
        for row in 0..dataset.rows(split) {
            dataset.row(split, row)?;
        }
        for shard in dataset.shards(split) {
            shard.documents()?;
        }
    }
    Ok(())
}

fn overwrite(path: &Path, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).truncate(true).open(path);
    file.unwrap().write_all(bytes).unwrap();
}

/// A golden dataset, made anew, or a copy of one of version 1.
fn put(golden: &Golden, folder: &Path) {
    if !golden.name.starts_with("v1-") || golden.format == ShardFormat::Parquet {
        golden.generate(folder);
        return;
    }
    let kept = kept(golden);
    for file in files(&kept) {
        let to = folder.join(file.strip_prefix(&kept).unwrap());
        fs::write(&to, &fs::read(&file).unwrap()).unwrap();
    }
}

fn all() -> impl Iterator<Item = Golden> {
    GOLDEN.into_iter().chain(with_aux()).chain(of_version_1())
}

#[test]
fn a_flipped_byte_or_a_cut_is_found() {
    for golden in all() {
        let folder = tempfile::tempdir().unwrap();
        put(&golden, folder.path());
        for reading in [Reading::Mmap, Reading::Pread] {
            read_all_by(reading, folder.path()).unwrap();
        }
        // Manifests and tokenizers are checked in one way whatever the shards are.
        let files = match golden.name == GOLDEN[0].name && !golden.aux {
            true => files(folder.path()),
            false => fs::list(&folder.path().join(SHARDS)).unwrap(),
        };
        let readings = [Reading::Mmap, Reading::Pread].into_iter().cycle();
        for (path, reading) in files.into_iter().zip(readings) {
            damage(folder.path(), &path, reading);
        }
        read_all(folder.path()).unwrap();
    }
}

/// Changes each byte of a file, and cuts it everywhere: the dataset is refused when it is
/// opened, or when rows are read, with the name of the file.
fn damage(folder: &Path, path: &Path, reading: Reading) {
    let bytes = fs::read(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let refused = |what: &str, at: usize| {
        let error = read_all_by(reading, folder).expect_err(&format!("{what} {at} of {name}"));
        assert!(
            error.to_string().contains(&name),
            "{what} {at} of {name}: {error}"
        );
    };
    // In place and by shortening: rewriting whole files would wait for the disk.
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for at in 0..bytes.len() {
        file.write_all_at(&[bytes[at] ^ (1 << (at % 8))], at as u64)
            .unwrap();
        refused("flipped byte", at);
        file.write_all_at(&bytes[at..=at], at as u64).unwrap();
    }
    for at in (0..bytes.len()).rev() {
        file.set_len(at as u64).unwrap();
        refused("cut at", at);
    }
    overwrite(path, &[&bytes[..], b"\n"].concat());
    refused("one byte after", bytes.len());
    overwrite(path, &bytes);
}

/// A shard is cut while it is open, and after its blocks were found right: rows stay what
/// they are or cannot be read, and the error names the file.
#[test]
fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    for golden in all() {
        let folder = tempfile::tempdir().unwrap();
        put(&golden, folder.path());
        let (manifest, _) = Manifest::open(folder.path()).unwrap();
        let record = &manifest.splits[&Split::Train].shards[0];
        let open = |reading| Shard::open_by(reading, folder.path(), record, &manifest).unwrap();
        let rows = |shard: &Shard| -> Vec<Result<Sequence, shard::Error>> {
            (0..record.rows).map(|row| shard.row(row)).collect()
        };
        let whole: Vec<_> = rows(&open(Reading::Mmap))
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let files = record.files().map(|(name, _)| name);
        for (name, reading) in files
            .flat_map(|name| [Reading::Mmap, Reading::Pread].map(|reading| (name.clone(), reading)))
        {
            let path = folder.path().join(SHARDS).join(&name);
            let bytes = fs::read(&path).unwrap();
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            for cut in 0..bytes.len() {
                let shard = open(reading);
                rows(&shard).into_iter().for_each(|row| drop(row.unwrap()));
                file.set_len(cut as u64).unwrap();
                for (row, expected) in rows(&shard).into_iter().zip(&whole) {
                    match row {
                        Ok(row) => assert_eq!(&row, expected, "{name} cut at {cut}"),
                        Err(error) => {
                            let said = error.to_string();
                            assert!(said.contains(&name) && said.contains("length"), "{said}");
                        }
                    }
                }
                // What is mapped is there as a whole or not at all, but for zeros at the end;
                // rows of one length need no index once their blocks were checked.
                let rest_is_zero = bytes[cut..].iter().all(|byte| *byte == 0);
                if reading == Reading::Mmap && !rest_is_zero {
                    let rows = rows(&shard);
                    let unneeded = name.ends_with(".idx") && rows.iter().all(Result::is_ok);
                    let lost = rows.iter().all(Result::is_err);
                    assert!(lost || unneeded, "{name} cut at {cut}");
                }
                file.write_all_at(&bytes[cut..], cut as u64).unwrap();
            }
        }
    }
}

/// Both ways to read give the same rows, and checks go past a bad block that is trusted.
#[test]
fn every_way_to_read_gives_the_same_rows() {
    for golden in all() {
        let folder = tempfile::tempdir().unwrap();
        put(&golden, folder.path());
        let tokenizer = (golden.tokenizer)();
        for reading in [Reading::Mmap, Reading::Pread] {
            let dataset = Dataset::open_by(reading, folder.path()).unwrap();
            for (split, shards) in golden.splits {
                for (index, drawing) in (0..).zip(shards.iter().copied().flatten()) {
                    let at = |index| At {
                        split,
                        epoch: 0,
                        index,
                    };
                    for ahead in [Ahead::Stretches, Ahead::Rows] {
                        dataset.will_need(at(index), ahead);
                        dataset.will_need(at(u64::MAX), ahead);
                    }
                    dataset.lines(at(index)).fetch();
                    dataset.lines(at(u64::MAX)).fetch();
                    let row = dataset.row(split, index).unwrap();
                    assert_eq!(row, golden.row(&tokenizer, drawing));
                }
            }
        }
    }
}

#[test]
fn trusted_blocks_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    GOLDEN[0].generate(folder.path());
    let path = folder.path().join(SHARDS).join("train-00000-000.bin");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    overwrite(&path, &bytes);
    let row = |trusted: bool| {
        let dataset = Dataset::open(folder.path()).unwrap();
        if trusted {
            dataset.trust_blocks();
        }
        dataset.row(Split::Train, 2)
    };
    assert!(
        row(false)
            .unwrap_err()
            .to_string()
            .contains("checksum of block 0")
    );
    row(true).unwrap();
}

#[test]
fn files_that_are_missing_swapped_or_foreign_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let golden = &GOLDEN[1];
    golden.generate(folder.path());
    let shards = folder.path().join(SHARDS);
    let path = |name: &str| shards.join(format!("train-0000{name}"));
    let refused = |expected: &str| {
        let error = read_all(folder.path()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected), "{text}");
        assert!(error.hint().is_some(), "{text}");
    };
    let copy: Vec<Vec<u8>> = ["0-000.bin", "0-000.idx", "1-000.bin", "1-000.idx"]
        .map(|name| fs::read(&path(name)).unwrap())
        .into();
    for (name, bytes) in ["0-000.bin", "0-000.idx"].iter().zip(&copy) {
        fs::remove_file(&path(name)).unwrap();
        refused(&format!("train-0000{name}"));
        fs::write(&path(name), bytes).unwrap();
    }
    for (name, bytes) in ["0-000.bin", "0-000.idx"].iter().zip(&copy[2..]) {
        fs::write(&path(name), bytes).unwrap();
    }
    refused("train-00000-000.bin` is damaged or another file");
    for (name, bytes) in ["0-000.bin", "0-000.idx"].iter().zip(&copy) {
        fs::write(&path(name), bytes).unwrap();
    }
    read_all(folder.path()).unwrap();
    overwrite(&folder.path().join(TOKENIZER_FILE), byte_level().to_json());
    refused("tokenizer.json` is not the tokenizer of this dataset");
    fs::remove_file(&folder.path().join(manifest::FILE)).unwrap();
    refused("is not a sealed dataset");
}

#[test]
fn shards_of_equal_shape_cannot_be_swapped() {
    // Counts and headers agree; only the digest of the index tells them apart.
    let rows: [&'static [&'static [&'static str]]; 2] =
        [&[&["the"], &["cat"]], &[&["cat"], &["the"]]];
    let [one, two] = rows.map(|rows| {
        let folder = tempfile::tempdir().unwrap();
        let golden = Golden {
            splits: [(Split::Train, rows), (Split::Validation, &[])],
            ..GOLDEN[1]
        };
        golden.generate(folder.path());
        folder
    });
    for ending in ["bin", "idx"] {
        let name = format!("shards/train-00000-000.{ending}");
        overwrite(
            &one.path().join(&name),
            &fs::read(&two.path().join(&name)).unwrap(),
        );
    }
    let error = read_all(one.path()).unwrap_err().to_string();
    assert!(
        error.contains("train-00000-000.idx` is damaged or another file: BLAKE3"),
        "{error}"
    );
}
