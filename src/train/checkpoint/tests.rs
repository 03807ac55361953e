//! Checkpoints of one folder: written, found again, damaged, removed.

use super::*;

fn state(step: u64) -> State {
    State {
        format: FORMAT,
        step,
        totals: Totals::default(),
        reserved: Reserved {
            pause: TokenId(7),
            end: TokenId(8),
            pad: TokenId(9),
            extra: Default::default(),
        },
        begin: None,
        pauses: None,
        loader: None,
        watch: Watch::default(),
        fingerprint: Fingerprint::default(),
    }
}

fn files(step: u64) -> [(&'static str, Vec<u8>); 2] {
    let weights = step.to_le_bytes().repeat(100);
    [
        ("model.safetensors", weights),
        ("config.json", b"{}".to_vec()),
    ]
}

fn save(store: &Store, step: u64, keep: usize) -> PathBuf {
    let keep = Keep {
        newest: keep,
        needed: None,
    };
    store.save(&state(step), &files(step), keep).unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::list(&folder.join("checkpoints")).unwrap();
    let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    entries.iter().map(name).collect()
}

#[test]
fn what_is_saved_is_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.latest().unwrap(), None);
    let saved = save(&store, 100, 2);
    let found = store.latest().unwrap().unwrap();
    assert_eq!((&found.folder, &found.state), (&saved, &state(100)));
    assert_eq!(found.read("model.safetensors").unwrap(), files(100)[0].1);
    assert_eq!(resolve(folder.path()).unwrap(), saved);
    assert_eq!(resolve(&saved).unwrap(), saved);
}

#[test]
fn the_newest_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    for step in [5, 10, 999_999, 1_000_000] {
        save(&store, step, 2);
    }
    assert_eq!(names(folder.path()), ["step-1000000", "step-999999"]);
    save(&store, 1_000_001, 0);
    assert_eq!(names(folder.path()), ["step-1000001"]);
}

#[test]
fn what_a_run_may_go_back_to_stays_until_it_is_needed_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = save(&store, 5, 1);
    let save = |step, needed| {
        let keep = Keep {
            newest: 1,
            needed: Some(needed),
        };
        store.save(&state(step), &files(step), keep).unwrap()
    };
    save(7, 5);
    assert_eq!(names(folder.path()), ["step-000005", "step-000007"]);
    assert_eq!(store.of(6).unwrap(), None);
    assert_eq!(store.of(5).unwrap().unwrap().folder, first);
    store.back_to(Some(5)).unwrap();
    assert_eq!(store.latest().unwrap().unwrap().folder, first);
    // What was made after it is in nobody's way.
    save(7, 5);
    assert_eq!(store.latest().unwrap().unwrap().state.step, 7);
    save(10, 10);
    assert_eq!(names(folder.path()), ["step-000010"]);
    store.back_to(None).unwrap();
    assert_eq!(store.latest().unwrap(), None);
    store.back_to(None).unwrap();
}

#[test]
fn a_kill_before_latest_moves_leaves_the_old_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    save(&store, 5, 2);
    let latest = fs::read(&folder.path().join(LATEST_FILE)).unwrap();
    save(&store, 10, 2);
    // As if killed after the folder was renamed, with another half written.
    fs::write(&folder.path().join(LATEST_FILE), &latest).unwrap();
    let half = folder.path().join("checkpoints/.tmp-1-step-000015");
    fs::write(&half.join("model.safetensors"), b"half").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(names(folder.path()), ["step-000005", "step-000010"]);
    assert_eq!(store.latest().unwrap().unwrap().state.step, 5);
    // The orphan is replaced, not an obstacle.
    save(&store, 10, 2);
    assert_eq!(store.latest().unwrap().unwrap().state.step, 10);
}

/// Whoever looks while checkpoints are written finds one that is whole.
#[test]
fn latest_names_a_whole_checkpoint_at_every_moment() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    save(&store, 1, 100);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (2..80).for_each(|step| drop(save(&store, step, 100))));
        let mut last = 1;
        while !writer.is_finished() {
            let step = store.latest().unwrap().unwrap().state.step;
            assert!(last <= step, "{last} {step}");
            last = step;
        }
    });
}

#[test]
fn each_damaged_file_is_named_with_an_older_one_that_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let [first, second, third] = [5, 10, 15].map(|step| save(&store, step, 3));
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, &bytes).unwrap();
    };
    flip(&second.join("config.json"));
    for name in ["model.safetensors", "config.json", STATE_FILE] {
        let path = third.join(name);
        flip(&path);
        let error = store.latest().unwrap_err();
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
        assert!(error.hint().unwrap().contains(&first.display().to_string()));
        flip(&path);
        store.latest().unwrap();
    }
    fs::remove_file(&third.join("config.json")).unwrap();
    let error = store.latest().unwrap_err();
    assert!(error.to_string().ends_with("it is missing"), "{error}");
    fs::remove_dir(&third).unwrap();
    assert!(matches!(
        store.latest().unwrap_err(),
        Error::Damaged {
            intact: Some(_),
            ..
        }
    ));
    flip(&first.join(STATE_FILE));
    assert!(matches!(
        store.latest().unwrap_err(),
        Error::Damaged { intact: None, .. }
    ));
}

#[test]
fn every_byte_of_the_state_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let path = save(&store, 5, 1).join(STATE_FILE);
    let text = fs::read_text(&path).unwrap();
    unseal(&path, text.as_bytes()).unwrap();
    for (place, _) in text.char_indices().filter(|(_, c)| c.is_alphanumeric()) {
        let mut bytes = text.clone().into_bytes();
        bytes[place] ^= 1;
        assert!(
            unseal(&path, &bytes).is_err(),
            "byte {place} may change unseen"
        );
    }
}

#[test]
fn what_is_no_checkpoint_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = resolve(folder.path()).unwrap_err();
    assert!(matches!(error, Error::Missing { .. }));
    fs::write(&folder.path().join(LATEST_FILE), b"../../etc\n").unwrap();
    assert!(matches!(
        resolve(folder.path()).unwrap_err(),
        Error::Damaged { .. }
    ));
}
