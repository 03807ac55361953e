//! Steps that must not be taken, runs that no longer get better, folders that are taken.

use super::*;

/// A job one of whose rows is unlike all others, so that a policy meets its batch.
fn watched(data: &Path, folder: &Path, policy: &str) -> Job {
    let other = |stage, index, pause| {
        let mut row = row(stage, index, pause);
        if index == 11 {
            row.ids = (100..).map(TokenId).take(ROW_LENGTH).collect();
        }
        row
    };
    let mut job = job(data, folder);
    (job.train.steps, job.train.warmup) = (20, 1);
    job.dataset = dataset_of(data, Stage::Pretrain, &tokenizer("⏸"), other);
    let text =
        format!("policy = \"{policy}\"\nwindow = 2\nloss = 1.01\nmost = 100\ngrad_norm = inf");
    job.train.spike = Some(toml::from_str(&text).unwrap());
    job
}

fn anomalies(folder: &Path) -> Vec<record::Anomaly> {
    let lines = record::read(folder).unwrap().into_iter();
    let anomaly = |line| match line {
        Line::Anomaly(line) => Some(line),
        _ => None,
    };
    lines.filter_map(anomaly).collect()
}

/// Runs a job to its end though it is killed after every so many steps, and stopped once.
fn interrupted(job: &Job) {
    for steps in [1, 3, 6, 8, 11] {
        let killer = at(steps, || panic!("killed"));
        let killed = catch_unwind(AssertUnwindSafe(|| run(job, &killer, &Stop::default())));
        assert!(killed.is_err() || killed.unwrap().unwrap() == Outcome::Finished);
    }
    let stop = Stop::default();
    run(job, &at(9, || stop.request()), &stop).unwrap();
    finish(job);
}

#[test]
fn law_8_holds_where_steps_are_skipped_or_rolled_back() {
    for policy in ["skip", "roll-back"] {
        let [data, whole] = folders();
        finish(&watched(data.path(), whole.path(), policy));
        let met = anomalies(whole.path());
        assert!(2 <= met.len(), "{policy}: {met:?}");
        let killed = tempfile::tempdir().unwrap();
        interrupted(&watched(data.path(), killed.path(), policy));
        assert!(
            traces(killed.path()) == traces(whole.path()),
            "{policy}: {:?}",
            anomalies(killed.path())
        );
        let files = |folder: &Path| {
            let files = fs::list(&folder.join("anomalies")).unwrap().into_iter();
            files
                .map(|file| fs::read(&file).unwrap())
                .collect::<Vec<_>>()
        };
        assert!(files(whole.path()) == files(killed.path()));
    }
}

#[test]
fn a_skipped_step_is_done_and_teaches_nothing() {
    let [data, folder] = folders();
    finish(&watched(data.path(), folder.path(), "skip"));
    let lines = record::read(folder.path()).unwrap();
    let skipped = anomalies(folder.path());
    let mut steps: Vec<u64> = skipped.iter().map(|line| line.step).collect();
    let (mut tokens, mut scored) = (0, 0);
    for line in &lines {
        if let Line::Train(line) = line {
            steps.push(line.step);
            tokens += line.tokens;
            scored += line.scored;
        }
    }
    steps.sort_unstable();
    assert_eq!(steps, (1..=20).collect::<Vec<_>>());
    let last = Checkpoint::open(&checkpoint::resolve(folder.path()).unwrap()).unwrap();
    let (totals, watch) = (last.state.totals, last.state.watch);
    assert_eq!((totals.tokens, totals.scored), (tokens, scored));
    assert_eq!(watch.skipped, skipped.len() as u64);
    assert_eq!(last.state.loader.unwrap().next, 20);
    // The rows that were skipped are those of the batch.
    for line in &skipped {
        assert_eq!((line.batch, line.rows.len()), (line.step - 1, 6));
        assert!(line.limit.unwrap() < line.value.unwrap());
    }
}

#[test]
fn a_run_that_rolls_back_takes_other_batches() {
    let [data, folder] = folders();
    finish(&watched(data.path(), folder.path(), "roll-back"));
    let met = anomalies(folder.path());
    let lines = record::read(folder.path()).unwrap();
    let steps = lines.iter().filter_map(|line| match line {
        Line::Train(line) => Some(line.step),
        _ => None,
    });
    assert_eq!(
        steps.collect::<Vec<_>>(),
        (1..=20).collect::<Vec<_>>(),
        "each step once"
    );
    assert!(met.iter().all(|line| line.back_to.unwrap() % 5 == 0));
    let last = Checkpoint::open(&checkpoint::resolve(folder.path()).unwrap()).unwrap();
    let past: u64 = met
        .iter()
        .map(|line| line.step - line.back_to.unwrap())
        .sum();
    assert_eq!(last.state.loader.unwrap().next, 20 + past);
    let batches: Vec<u64> = met.iter().map(|line| line.batch).collect();
    assert!(batches.is_sorted_by(|a, b| a < b), "{batches:?}");
}

#[test]
fn too_many_anomalies_stop_the_run_and_more_may_be_allowed() {
    let [data, folder] = folders();
    let mut job = watched(data.path(), folder.path(), "skip");
    job.train.spike.as_mut().unwrap().most = 1;
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    let said = error.to_string();
    assert!(
        said.ends_with(" after 1 that were skipped or rolled back"),
        "{said}"
    );
    assert!(error.hint().unwrap().contains("spike.most=2"));
    job.train.spike.as_mut().unwrap().most = 100;
    finish(&job);
    let [data, whole] = folders();
    finish(&watched(data.path(), whole.path(), "skip"));
    assert!(traces(folder.path()) == traces(whole.path()));
}

#[test]
fn a_run_ends_early_and_keeps_its_best() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.steps = 60;
    job.train.keep = 1;
    job.train.early_stopping = Some(toml::from_str("patience = 2\nmin_delta = 0.3").unwrap());
    finish(&job);
    let last = Checkpoint::open(&checkpoint::resolve(folder.path()).unwrap()).unwrap();
    let best = last.state.watch.best.unwrap();
    assert!(last.state.step < 60, "{best:?}");
    assert_eq!((last.state.step, best.since), (best.step + 6, 2));
    let named = checkpoint::resolve(&folder.path().join(checkpoint::BEST_FILE)).unwrap();
    assert_eq!(Checkpoint::open(&named).unwrap().state.step, best.step);
    let kept = fs::list(&folder.path().join("checkpoints")).unwrap();
    assert_eq!(kept.len(), 2, "the best and the last: {kept:?}");
    // Again there is nothing to do; interrupted, the same is done.
    let expected = traces(folder.path());
    finish(&job);
    assert!(traces(folder.path()) == expected);
    let killed = tempfile::tempdir().unwrap();
    let again = Job {
        folder: killed.path().to_path_buf(),
        ..job
    };
    interrupted(&again);
    assert!(traces(killed.path()) == expected);
    let best = |folder: &Path| fs::read(&folder.join(checkpoint::BEST_FILE)).unwrap();
    assert!(best(killed.path()) == best(folder.path()));
}

#[test]
fn two_runs_do_not_meet_in_a_folder() {
    let [data, folder] = folders();
    let job = job(data.path(), folder.path());
    let other = at(3, || {
        let error = run(&job, &Silent, &Stop::default()).unwrap_err();
        let expected = format!("another process is training in `{}`", job.folder.display());
        assert_eq!(error.to_string(), expected);
        assert!(error.hint().unwrap().contains("--out"));
        assert!(matches!(
            forget(&job.folder).unwrap_err(),
            Error::Busy { .. }
        ));
    });
    assert_eq!(
        run(&job, &other, &Stop::default()).unwrap(),
        Outcome::Finished
    );
    forget(&job.folder).unwrap();
    forget(&job.folder).unwrap();
    finish(&job);
}

#[test]
fn a_run_that_averages_goes_on_with_both_and_gives_the_average() {
    let [data, whole] = folders();
    let plain = job(data.path(), whole.path());
    finish(&plain);
    let losses = |folder: &Path| {
        let lines = record::read(folder).unwrap().into_iter();
        let loss = |line| match line {
            Line::Train(line) => Some(line.loss),
            _ => None,
        };
        lines.filter_map(loss).collect::<Vec<f64>>()
    };
    let folder = tempfile::tempdir().unwrap();
    let mut averaged = job(data.path(), folder.path());
    averaged.train.ema = Some(0.8);
    finish(&averaged);
    assert_eq!(
        losses(folder.path()),
        losses(whole.path()),
        "an average changes no step"
    );
    let last = checkpoint::resolve(folder.path()).unwrap();
    let raw = checkpoint::read_weights(&last, checkpoint::RAW_FILE)
        .unwrap()
        .1;
    let plain = checkpoint::resolve(whole.path()).unwrap();
    assert!(raw == checkpoint::read_model(&plain).unwrap().1);
    // One weight, followed by hand over the steps that were saved.
    let result = checkpoint::read_model(&last).unwrap().1;
    assert!(result != raw);
    let steps = tempfile::tempdir().unwrap();
    let mut each = job(data.path(), steps.path());
    (each.train.checkpoint_every, each.train.keep) = (1, 100);
    finish(&each);
    let weight = |values: &[Vec<f32>]| f64::from(values[1][7]);
    let first = Model::new(&each.config, Key::new(each.seed), &each.device).values();
    let mut average = weight(&first);
    for step in 1..=12u32 {
        let folder = steps.path().join(format!("checkpoints/step-{step:06}"));
        let now = weight(&checkpoint::read_model(&folder).unwrap().1);
        let step = f64::from(step);
        let keep = ((1.0 + step) / (10.0 + step)).min(0.8);
        average = keep * average + (1.0 - keep) * now;
    }
    assert!(
        (average - weight(&result)).abs() < 1e-6,
        "{average} {result:?}"
    );
    let killed = tempfile::tempdir().unwrap();
    let again = Job {
        folder: killed.path().to_path_buf(),
        ..averaged
    };
    interrupted(&again);
    assert!(traces(killed.path()) == traces(folder.path()));
}

#[test]
fn a_checkpoint_that_cannot_be_written_ends_the_run() {
    let [data, folder] = folders();
    let job = job(data.path(), folder.path());
    let checkpoints = folder.path().join("checkpoints");
    let spoil = at(7, || {
        // What was begun after step 5 may still be written, and make the folder again; it
        // comes first, or fails as well.
        while fs::write(&checkpoints, b"no folder").is_err() {
            fs::remove_dir(&checkpoints).ok();
        }
    });
    let error = run(&job, &spoil, &Stop::default()).unwrap_err();
    let Error::Checkpoint(checkpoint::Error::File(error)) = &error else {
        panic!("{error}")
    };
    assert!(error.to_string().contains("checkpoints"), "{error}");
}
