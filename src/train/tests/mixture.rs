//! Training on several datasets by weight, and on checkpoints from before there were.

use super::*;

/// Three rows of the stage's own dataset to one of another, then one to one.
fn mixed(data: [&Path; 2], folder: &Path) -> Job {
    let mut job = job(data[0], folder);
    job.mixture = vec![
        job.dataset.clone(),
        dataset(data[1], Stage::Pretrain, &tokenizer("⏸")),
    ];
    let keys = "
        mixture = [{ weight = 3 }, { dataset = 'other', weight = 1 }]
        curriculum = [{ from_step = 4, weights = [1, 1] }]
    ";
    let text = toml::to_string(&job.train).unwrap() + keys;
    job.train = toml::from_str(&text).unwrap();
    job
}

#[test]
fn law_8_holds_for_mixtures() {
    let [data, whole] = folders();
    let [other, stopped] = folders();
    let data = [data.path(), other.path()];
    finish(&mixed(data, whole.path()));
    let job = mixed(data, stopped.path());
    for step in [3, 4, 5, 10] {
        let stop = Stop::default();
        run(&job, &at(step, || stop.request()), &stop).unwrap();
    }
    finish(&job);
    assert!(traces(stopped.path()) == traces(whole.path()));

    let lines = record::read(whole.path()).unwrap();
    let epochs = lines.iter().filter_map(|line| match line {
        Line::Train(step) => Some((step.epochs, step.epochs_of.clone())),
        Line::Validation(_) | Line::Anomaly(_) => None,
    });
    let epochs: Vec<_> = epochs.collect();
    // Of 6 rows a step 4 or 5 are the first's; after step 4 of 24 rows 18, then 3 of 6.
    assert_eq!(epochs[3], (24.0 / 40.0, vec![18.0 / 20.0, 6.0 / 20.0]));
    assert_eq!(epochs[11], (72.0 / 40.0, vec![42.0 / 20.0, 30.0 / 20.0]));
}

#[test]
fn another_mixture_is_refused() {
    let [data, folder] = folders();
    let other = tempfile::tempdir().unwrap();
    let mut job = mixed([data.path(), other.path()], folder.path());
    let stop = Stop::default();
    run(&job, &at(2, || stop.request()), &stop).unwrap();
    job.train.curriculum[0].weights[1] = 2.0;
    let error = run(&job, &Silent, &Stop::default())
        .unwrap_err()
        .to_string();
    let expected = "`mixture.1.weights.1` was 1.0 and is 2.0";
    assert!(error.ends_with(expected), "{error}");
    // Where the other dataset lies does not matter.
    job.train.curriculum[0].weights[1] = 1.0;
    job.train.mixture[1].dataset = Some("moved".into());
    finish(&job);
}

#[test]
fn datasets_that_do_not_belong_together_are_refused() {
    let [data, folder] = folders();
    for (stage, pause, what) in [
        (
            Stage::Finetune,
            "⏸",
            "its stage is finetune, expected pretrain",
        ),
        (Stage::Pretrain, "…", "its tokenizer is "),
    ] {
        let other = tempfile::tempdir().unwrap();
        let mut job = mixed([data.path(), other.path()], folder.path());
        fs::remove_dir(other.path()).unwrap();
        fs::create_dir(other.path()).unwrap();
        job.mixture[1] = dataset(other.path(), stage, &tokenizer(pause));
        let error = run(&job, &Silent, &Stop::default()).unwrap_err();
        let told = error.to_string();
        assert!(told.contains(&other.path().display().to_string()), "{told}");
        assert!(told.contains(what), "{told}");
        assert!(error.hint().is_some());
    }
}

/// Version 1 had the data in the fingerprint.
#[test]
fn a_checkpoint_of_version_1_is_continued() {
    let [data, whole] = folders();
    finish(&job(data.path(), whole.path()));
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(data.path(), folder.path());
    let stop = Stop::default();
    run(&job, &at(5, || stop.request()), &stop).unwrap();

    let store = Store::open(folder.path()).unwrap();
    let Checkpoint {
        folder: at,
        mut state,
    } = store.latest().unwrap().unwrap();
    state.format = 1;
    state.loader = None;
    let manifest = &job.dataset.manifest;
    state.fingerprint.add("dataset", &json!(job.dataset.digest));
    state
        .fingerprint
        .add("tokenizer", &json!(manifest.tokenizer.digest));
    state.fingerprint.add("seed", &json!(3));
    let names = [
        checkpoint::CONFIG_FILE,
        checkpoint::WEIGHTS_FILE,
        TOKENIZER_FILE,
        optimizer::FILE,
    ];
    let files = names.map(|name| (name, fs::read(&at.join(name)).unwrap()));
    let (newest, needed) = (2, None);
    store
        .save(&state, &files, checkpoint::Keep { newest, needed })
        .unwrap();
    let text = fs::read_text(&at.join(checkpoint::STATE_FILE)).unwrap();
    assert!(!text.contains("loader"), "{text}");

    job.seed = 4;
    let error = run(&job, &Silent, &Stop::default())
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("`seed` was 3 and is 4"), "{error}");
    job.seed = 3;
    finish(&job);
    assert!(traces(folder.path()) == traces(whole.path()));
}
