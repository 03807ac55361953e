//! Operations of a device, whose numbers are read a step late: the records, what becomes of
//! numbers that are none, and that the run is the one of the CPU's kernels.

use super::*;
use crate::model::ops::Kernels;
use crate::train::step::Learner;

/// The same job with burn's operations, which stand for a device's.
fn on_device(job: Job) -> Job {
    Job {
        kernels: Wish::Burn,
        ..job
    }
}

#[test]
fn a_run_whose_numbers_come_late_is_the_run_whose_numbers_do_not() {
    let [data, early] = folders();
    finish(&job(data.path(), early.path()));
    let late = tempfile::tempdir().unwrap();
    finish(&on_device(job(data.path(), late.path())));
    let lines = |folder: &Path| record::read(folder).unwrap();
    let (early, late) = (lines(early.path()), lines(late.path()));
    assert_eq!(early.len(), late.len());
    for (early, late) in early.iter().zip(&late) {
        match (early, late) {
            (Line::Train(early), Line::Train(late)) => {
                let counted = |line: &record::Step| (line.step, line.totals, line.scored, line.lr);
                assert_eq!(counted(early), counted(late));
                assert!((early.epochs - late.epochs).abs() < 1e-12);
                assert!((early.loss - late.loss).abs() < 1e-4, "{early:?} {late:?}");
                assert!((early.grad_norm - late.grad_norm).abs() < 1e-3 * early.grad_norm);
            }
            (Line::Validation(early), Line::Validation(late)) => {
                assert_eq!(early.step, late.step);
                assert!((early.loss - late.loss).abs() < 1e-4);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_step_is_written_down_when_the_next_was_begun_and_before_a_stop() {
    let [data, folder] = folders();
    let mut job = on_device(job(data.path(), folder.path()));
    (job.train.checkpoint_every, job.train.validate_every) = (4, 0);
    let written = || record::read(folder.path()).map_or(0, |lines| lines.len());
    let seen = std::sync::Mutex::new(Vec::new());
    let stop = Stop::default();
    let watch = Watching(|step| {
        seen.lock().unwrap().push(written());
        if step == 6 {
            stop.request();
        }
    });
    run(&job, &watch, &stop).unwrap();
    assert_eq!(*seen.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(written(), 6, "all of a stopped run is written");
    finish(&job);
    assert_eq!(written(), 12);
}

/// Calls something with the number of steps after each.
struct Watching<F>(F);

impl<F: Fn(u64) + Send + Sync> Progress for Watching<F> {
    fn start(&self, _: &str, _: Option<u64>, _: Unit) {
        STEPS.with(|steps| steps.set(0));
    }
    fn advance(&self, count: u64) {
        if count == 0 {
            return;
        }
        let step = STEPS.with(|steps| {
            steps.set(steps.get() + count);
            steps.get()
        });
        (self.0)(step);
    }
    fn remark(&self, _: &str) {}
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}

thread_local! {
    static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[test]
fn late_numbers_that_are_none_stop_the_run_at_their_step() {
    let [data, folder] = folders();
    let mut job = on_device(job(data.path(), folder.path()));
    (job.train.lr, job.train.checkpoint_every) = (1e25, 0);
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    let Error::Anomaly { step, batch, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(*batch, *step - 1);
    let lines = record::read(folder.path()).unwrap();
    let Some((Line::Anomaly(last), taken)) = lines.split_last() else {
        panic!("{lines:?}")
    };
    assert_eq!((last.step, last.batch), (*step, *batch));
    assert!(taken.iter().all(|line| matches!(line, Line::Train(_))));
    assert_eq!(taken.last().unwrap().step(), step - 1);
}

#[test]
fn a_step_whose_numbers_are_none_changes_no_weight() {
    let [data, folder] = folders();
    let job = on_device(job(data.path(), folder.path()));
    let mut model = Model::new(&job.config, Key::new(1), &Device::flex());
    let mut values = model.values();
    values[1][5] = f32::INFINITY;
    model = Model::from_values(&job.config, values.clone(), &Device::flex());
    let mut learner = Learner::new(model.with_kernels(Kernels::Plain), &job.device);
    let batch = data::loader(&job).unwrap().batch(0).unwrap();
    let begun = learner.begin(&batch, &job.train).unwrap();
    assert!(!begun.is_known() && learner.step == 1);
    assert!(matches!(begun.finish(), Err(Trouble::Anomaly(_))));
    assert_eq!(learner.model.values(), values);
    let moments = learner.optimizer.to_bytes(&learner.model).unwrap();
    let fresh = Learner::new(learner.model.clone(), &job.device).optimizer;
    assert!(moments == fresh.to_bytes(&learner.model).unwrap());
    // Asked to wait, the learner is as before.
    let trouble = learner.step(&batch, &job.train).unwrap_err();
    assert!(matches!(trouble, Trouble::Anomaly(_)));
    assert_eq!((learner.step, learner.next), (1, 1));
}

#[test]
fn with_spikes_to_look_for_numbers_are_waited_for() {
    let [data, folder] = folders();
    let mut job = on_device(job(data.path(), folder.path()));
    job.train.spike = Some(toml::from_str("policy = \"skip\"\nwindow = 2").unwrap());
    let model = Model::new(&job.config, Key::new(1), &Device::flex());
    let mut learner = Learner::new(model.with_kernels(Kernels::Plain), &job.device);
    let batch = data::loader(&job).unwrap().batch(0).unwrap();
    assert!(learner.begin(&batch, &job.train).unwrap().is_known());
    assert_eq!(learner.watch.losses.len(), 1);
}
