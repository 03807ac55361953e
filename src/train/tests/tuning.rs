//! Runs that change a part of a model.

use super::*;
use crate::model::lora::{Lora, Target};
use crate::model::peft;

/// A job that adapts the model of another run's folder.
fn adapting(data: &Path, folder: &Path, before: &Path) -> Job {
    let mut job = job(data, folder);
    job.dataset = dataset(data, Stage::Finetune, &tokenizer("⏸"));
    job.start = Start::From(before.to_path_buf());
    job.train.freeze = Some(Freeze::AllButPause);
    job.train.lora = Some(Lora {
        rank: 2,
        alpha: 4.0,
        targets: None,
    });
    job
}

#[test]
fn adapters_are_trained_and_resumed_to_the_bit() {
    let [data, before] = folders();
    finish(&job(data.path(), before.path()));
    let whole = tempfile::tempdir().unwrap();
    let of = |folder: &Path| adapting(data.path(), folder, before.path());
    finish(&of(whole.path()));
    let expected = traces(whole.path());
    for step in [2, 7] {
        let stopped = tempfile::tempdir().unwrap();
        let job = of(stopped.path());
        let stop = Stop::default();
        run(&job, &at(step, || stop.request()), &stop).unwrap();
        finish(&job);
        assert!(traces(stopped.path()) == expected, "stopped after {step}");
    }

    // The checkpoint is the merged model: matrices moved, and of the embedding the pause.
    let read = |folder: &Path| {
        let folder = checkpoint::resolve(folder).unwrap();
        (checkpoint::read_model(&folder).unwrap().1, folder)
    };
    let ((start, _), (end, folder)) = (read(before.path()), read(whole.path()));
    let job = of(whole.path());
    only_the_pause_moved(&job, &start[0], &end[0]);
    let model = Model::from_values(&job.config, start, &Device::flex());
    for (group, end) in model.groups.iter().zip(&end).skip(1) {
        let start = &model.values()[model.groups.iter().position(|g| g == group).unwrap()];
        for part in &group.parts {
            let moved = start[part.range.clone()] != end[part.range.clone()];
            assert_eq!(moved, part.shape.len() == 2, "{}.{}", group.name, part.name);
        }
    }
    // What it holds beside that says the same.
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let name = format!("{}/{}", peft::FOLDER, peft::WEIGHTS_FILE);
    assert!(!checkpoint.read(&name).unwrap().is_empty());
    let resumed = start::resumed(&job, &checkpoint).unwrap();
    assert!(resumed.values() == end);
}

#[test]
fn an_adapter_of_what_is_not_there_is_refused() {
    let [data, before] = folders();
    finish(&job(data.path(), before.path()));
    let folder = tempfile::tempdir().unwrap();
    let mut job = adapting(data.path(), folder.path(), before.path());
    job.config.activation = Activation::Gelu;
    job.train.lora.as_mut().unwrap().targets = Some(vec![Target::Gate]);
    job.start = Start::Fresh;
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`train.lora.targets` names `gate`, which the model does not have"
    );
}

/// Neither what is kept of a pass nor the weight of nothing changes a run.
#[test]
fn a_run_that_computes_activations_again_is_the_same_run() {
    let [data, folder] = folders();
    let weights = |folder: &Path| {
        let last = checkpoint::resolve(folder).unwrap();
        fs::read(&last.join(checkpoint::WEIGHTS_FILE)).unwrap()
    };
    finish(&job(data.path(), folder.path()));
    let again = tempfile::tempdir().unwrap();
    let mut job = job(data.path(), again.path());
    job.train.recompute = true;
    finish(&job);
    assert!(weights(folder.path()) == weights(again.path()));
    let flops = |folder: &Path| match record::read(folder).unwrap().swap_remove(0) {
        Line::Train(step) => step.flops,
        Line::Validation(_) | Line::Anomaly(_) => panic!("a step comes first"),
    };
    let (kept, computed) = (flops(folder.path()), flops(again.path()));
    assert_eq!((kept.recomputed, kept.sum()), (0, computed.sum()));
    assert!(computed.sum() < computed.hardware());
}

#[test]
fn the_z_loss_is_told_apart() {
    let [data, folder] = folders();
    let mut job = job(data.path(), folder.path());
    job.train.z_loss = 1e-2;
    finish(&job);
    let lines = record::read(folder.path()).unwrap();
    let Line::Train(first) = &lines[0] else {
        panic!("a step comes first")
    };
    // A fresh model's logits are near 0: the logarithm of the sum is that of 259.
    let expected = 1e-2 * 259f64.ln().powi(2);
    assert!((first.z_loss.unwrap() - expected).abs() < 2e-2 * expected);
    assert!((first.loss - 259f64.ln()).abs() < 0.05);
}
