//! Steps that must not be taken, runs that no longer get better, folders that are taken.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::model::Kernels;
use crate::recipe::Schedule;
use crate::train::average::Average;
use crate::train::ranks::Ranks;

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

/// Does something whenever the run has gone back.
struct Back<F> {
    goes: AtomicBool,
    act: F,
}

impl<F: Fn() + Send + Sync> Progress for Back<F> {
    fn start(&self, _: &str, _: Option<u64>, _: Unit) {}
    fn advance(&self, _: u64) {
        if self.goes.swap(false, Ordering::SeqCst) {
            (self.act)();
        }
    }
    fn remark(&self, _: &str) {}
    fn note(&self, text: &str) {
        if text.contains("the run goes back to step") {
            self.goes.store(true, Ordering::SeqCst);
        }
    }
    fn finish(&self) {}
}

fn back<F: Fn() + Send + Sync>(act: F) -> Back<F> {
    let goes = AtomicBool::new(false);
    Back { goes, act }
}

/// Stops a run on its way back; whether it came to its end.
fn stopped_on_its_way_back(job: &Job) -> bool {
    let stop = Stop::default();
    run(job, &back(|| stop.request()), &stop).unwrap() == Outcome::Finished
}

#[test]
fn law_8_holds_for_stops_right_after_a_roll_back() {
    for ema in [None, Some(0.8)] {
        let of = |data: &TempDir, folder: &TempDir| {
            let mut job = watched(data.path(), folder.path(), "roll-back");
            job.train.ema = ema;
            // So that what a stop saves would drive away what a run goes back to.
            job.train.keep = 1;
            job
        };
        let [data, whole] = folders();
        finish(&of(&data, &whole));
        let [data, stopped] = folders();
        let job = of(&data, &stopped);
        let mut stops = 0;
        while !stopped_on_its_way_back(&job) {
            stops += 1;
            // Now and then it is killed on its next way.
            if [2, 7, 13].contains(&stops) {
                let killer = back(|| panic!("killed"));
                let run = AssertUnwindSafe(|| run(&job, &killer, &Stop::default()));
                catch_unwind(run).unwrap_err();
            }
        }
        assert!(anomalies(whole.path()).len() / 2 < stops);
        assert!(traces(stopped.path()) == traces(whole.path()), "{ema:?}");
    }
}

/// Weights, moments, average, counts and memory are those of the checkpoint: what comes next
/// is what whoever took that checkpoint would make of the batch after the one that failed.
#[test]
fn a_run_that_rolls_back_is_the_one_of_its_checkpoint_with_other_batches() {
    let [data, folder] = folders();
    let mut job = watched(data.path(), folder.path(), "roll-back");
    (job.train.ema, job.train.keep) = (Some(0.8), 100);
    // The first that goes back to a checkpoint, and not to the start.
    let met = loop {
        assert!(!stopped_on_its_way_back(&job));
        let met = anomalies(folder.path());
        if met.iter().any(|line| line.back_to != Some(0)) {
            break met;
        }
    };
    let last = met.last().unwrap();
    let back = folder.path().join("checkpoints");
    let back = back.join(format!("step-{:06}", last.back_to.unwrap()));
    let way = (
        Some(Checkpoint::open(&back).unwrap()),
        begin::fingerprint(&job).unwrap(),
        Arc::new(data::loader(&job).unwrap()),
    );
    let loader = way.2.clone();
    let ranks = Ranks::start(&job.devices()).unwrap();
    let mut twin = begin::learner(&ranks, (&job, Kernels::FUSED), way, &Silent).unwrap();
    let before = twin.watch.anomalies;
    twin.next = last.batch + 1;
    twin.step(&loader.batch(twin.next).unwrap(), &job.train)
        .unwrap();

    let next = Checkpoint::open(&checkpoint::resolve(folder.path()).unwrap()).unwrap();
    let same = |line: &&record::Anomaly| line.back_to == last.back_to;
    let since = met.iter().filter(same).count() as u64;
    twin.watch.anomalies = before + since;
    assert_eq!(
        (next.state.step, &next.state.watch),
        (twin.step, &twin.watch)
    );
    assert_eq!(next.state.totals, twin.totals);
    assert_eq!(next.state.loader.as_ref().unwrap().next, twin.next);
    let weights = |file| checkpoint::read_weights(&next.folder, file).unwrap().1;
    assert!(weights(checkpoint::RAW_FILE) == twin.model.values());
    assert!(weights(checkpoint::WEIGHTS_FILE) == twin.result().values());
    let moments = twin.optimizer.to_bytes(&twin.model).unwrap();
    assert!(next.read(optimizer::FILE).unwrap() == moments);
}

/// Which is not the one that a stop saved.
#[test]
fn a_run_that_ends_after_it_rolled_back_names_the_checkpoint_that_it_went_back_to() {
    let [data, folder] = folders();
    let mut job = watched(data.path(), folder.path(), "roll-back");
    job.train.checkpoint_every = 10;
    let met = || anomalies(folder.path());
    assert!(!stopped_on_its_way_back(&job));
    while met().iter().all(|line| line.back_to == Some(0)) {
        assert!(!stopped_on_its_way_back(&job));
    }
    // It stands behind a stop's checkpoint, and must go back before it.
    job.train.spike.as_mut().unwrap().most = met().len() as u64 + 1;
    let stopped = checkpoint::resolve(folder.path()).unwrap();
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    let Error::Anomaly { checkpoint, .. } = &error else {
        panic!("{error}")
    };
    let named = checkpoint::resolve(folder.path()).unwrap();
    assert!(named < stopped, "{named:?} {stopped:?}");
    assert_eq!(checkpoint.as_ref(), Some(&named));
    let named = Checkpoint::open(&named).unwrap().state.step;
    let back = met().iter().filter_map(|line| line.back_to).next_back();
    assert_eq!(Some(named), back);
}

/// AdamW corrects its moments by how often they moved, and an average forgets its first
/// weights by how often it was told others: neither counts a step that was skipped.
#[test]
fn a_skipped_step_corrects_no_moment_and_ages_no_average() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    (job.train.warmup, job.train.schedule) = (0, Schedule::Constant);
    let loader = data::loader(&job).unwrap();
    for kernels in [Kernels::FUSED, Kernels::Plain] {
        let learner = || {
            let model = Model::new(&job.config, Key::new(1), &job.device).with_kernels(kernels);
            Learner {
                average: Some(Average::new(0.9, &model)),
                ..Learner::new(model, &job.device)
            }
        };
        let (mut skipping, mut plain) = (learner(), learner());
        for index in 0..5 {
            let batch = loader.batch(index).unwrap();
            match index % 2 {
                0 => {
                    skipping.step(&batch, &job.train).unwrap();
                    plain.step(&batch, &job.train).unwrap();
                }
                _ => skipping.skip(),
            }
        }
        assert_eq!((skipping.step, skipping.next), (5, 5));
        assert_eq!(plain.step, 3);
        assert!(
            skipping.model.values() == plain.model.values(),
            "{kernels:?}"
        );
        assert!(skipping.result().values() == plain.result().values());
        assert!(plain.result().values() != plain.model.values());
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
    assert_eq!(last.state.watch.anomalies, met.len() as u64);
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
    // It is what is validated.
    let held_out = validation::Sample {
        rows: averaged.train.validation_rows,
        rows_per_batch: data::loading(&averaged).rows_per_micro_batch,
    };
    let (config, values) = checkpoint::read_model(&last).unwrap();
    let model = Model::from_values(&config, values, &Device::flex());
    let part = validation::part(&model, &*averaged.dataset, held_out, (0, 1)).unwrap();
    let expected = validation::mean(&[part], 5).unwrap().mean;
    let Some(Line::Validation(line)) = record::read(folder.path()).unwrap().pop() else {
        panic!("no validation loss at the end")
    };
    assert_eq!(line.loss, expected);
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
