//! Runs that change a part of a model.

use super::*;
use crate::model::lora::{Lora, Target};
use crate::model::peft;
use crate::recipe::Optimizer;

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

/// What is trained of a model may be moved by Muon and be averaged, alone or both.
#[test]
fn parts_moved_by_muon_and_averaged_are_resumed_to_the_bit() {
    let [data, before] = folders();
    finish(&job(data.path(), before.path()));
    for (optimizer, ema, lora) in [
        (Optimizer::Muon, None, true),
        (Optimizer::Muon, Some(0.8), true),
        (Optimizer::Adamw, Some(0.8), true),
        (Optimizer::Adamw, Some(0.8), false),
    ] {
        let of = |folder: &Path, ema| {
            let mut job = adapting(data.path(), folder, before.path());
            job.train.lora = job.train.lora.filter(|_| lora);
            (job.train.optimizer, job.train.ema) = (optimizer, ema);
            job
        };
        let whole = tempfile::tempdir().unwrap();
        finish(&of(whole.path(), ema));
        let stopped = tempfile::tempdir().unwrap();
        let again = of(stopped.path(), ema);
        for step in [2, 7] {
            let stop = Stop::default();
            run(&again, &at(step, || stop.request()), &stop).unwrap();
        }
        let killer = at(9, || panic!("killed"));
        catch_unwind(AssertUnwindSafe(|| run(&again, &killer, &Stop::default()))).unwrap_err();
        finish(&again);
        let case = format!("{optimizer:?}, {ema:?}, {lora}");
        assert!(
            traces(stopped.path()) == traces(whole.path()),
            "{case} was resumed"
        );

        // Neither average nor weights moved what is frozen.
        let latest = |folder: &Path| checkpoint::resolve(folder).unwrap();
        let values = |folder: &Path| checkpoint::read_model(&latest(folder)).unwrap().1;
        let (start, end) = (values(before.path()), values(whole.path()));
        only_the_pause_moved(&again, &start[0], &end[0]);
        let model = Model::from_values(&again.config, start.clone(), &Device::flex());
        for ((group, start), end) in model.groups.iter().zip(&start).zip(&end).skip(1) {
            for part in &group.parts {
                let moved = start[part.range.clone()] != end[part.range.clone()];
                let expected = lora && part.shape.len() == 2;
                assert_eq!(moved, expected, "{case}: {}.{}", group.name, part.name);
            }
        }
        let Some(_) = ema else { continue };
        // What the run goes on with is what it would be without an average.
        let alone = tempfile::tempdir().unwrap();
        finish(&of(alone.path(), None));
        let checkpoint = Checkpoint::open(&latest(whole.path())).unwrap();
        let result = start::resumed(&again, &checkpoint).unwrap();
        assert!(result.values() == end, "{case}");
        let raw = start::raw(&again, &checkpoint, result).unwrap();
        assert!(raw.values() == values(alone.path()), "{case}");
        assert!(raw.values() != end, "{case}");
    }
}

#[test]
fn muon_makes_the_moves_of_adapters_orthogonal() {
    let [data, before] = folders();
    finish(&job(data.path(), before.path()));
    let folder = tempfile::tempdir().unwrap();
    let mut job = adapting(data.path(), folder.path(), before.path());
    job.train.optimizer = Optimizer::Muon;
    finish(&job);
    let latest = checkpoint::resolve(folder.path()).unwrap();
    let bytes = fs::read(&latest.join(optimizer::FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // Adapters have no second moment, rows have one.
    let zero = |name: &str| {
        file.tensor(name)
            .unwrap()
            .data()
            .iter()
            .all(|byte| *byte == 0)
    };
    assert!(zero("adapter.0.second") && !zero("adapter.0.first"));
    assert!(!zero("rows.second"));
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
