//! Runs that share each global batch among ranks: the same data, losses and weights as one
//! rank alone, however many there are and wherever a run goes on; and what becomes of a rank
//! that fails.

use super::*;
use crate::loader::Share;
use crate::model::collective::Devices;
use crate::model::{Kernels, to_vec};
use crate::train::ranks::Ranks;
use crate::train::step::Learner;

/// A job of so many ranks on the CPU.
fn shared(data: &Path, folder: &Path, ranks: usize) -> Job {
    let mut job = job(data, folder);
    job.others = vec![Device::flex(); ranks - 1];
    job
}

/// Five micro-batches a step, of which the last is short.
fn finely(mut job: Job) -> Job {
    job.train.batch_tokens = 9 * ROW_LENGTH;
    job.train.micro_batch_tokens = Some(2 * ROW_LENGTH);
    job
}

/// The traces of a run of so many ranks, after what is done to its job.
fn traces_of(
    data: &Path,
    ranks: usize,
    change: impl Fn(&mut Job),
) -> (Vec<String>, Vec<(PathBuf, Vec<u8>)>) {
    let folder = tempfile::tempdir().unwrap();
    let mut job = finely(shared(data, folder.path(), ranks));
    change(&mut job);
    finish(&job);
    traces(folder.path())
}

fn change_nothing(_: &mut Job) {}

#[test]
fn any_number_of_ranks_gives_the_same_bits() {
    let data = tempfile::tempdir().unwrap();
    let alone = traces_of(data.path(), 1, change_nothing);
    assert_eq!(alone.0.len(), 16);
    for ranks in [2, 3, 5] {
        assert!(
            traces_of(data.path(), ranks, change_nothing) == alone,
            "{ranks} ranks"
        );
    }
}

#[test]
fn so_does_every_way_to_train() {
    let data = tempfile::tempdir().unwrap();
    let before = tempfile::tempdir().unwrap();
    finish(&job(data.path(), before.path()));
    let changes: [&dyn Fn(&mut Job); 4] = [
        &|job| {
            job.train.optimizer = crate::recipe::Optimizer::Muon;
            job.train.ema = Some(0.9);
        },
        &|job| {
            job.start = Start::From(before.path().to_path_buf());
            job.train.freeze = Some(Freeze::AllButPause);
            let targets = None;
            let (rank, alpha) = (2, 4.0);
            job.train.lora = Some(crate::model::lora::Lora {
                rank,
                alpha,
                targets,
            });
        },
        &|job| {
            let skip = "policy = \"skip\"\nwindow = 2\nloss = 1.001\nmost = 100\ngrad_norm = inf";
            job.train.spike = Some(toml::from_str(skip).unwrap());
            (job.train.z_loss, job.train.recompute) = (1e-3, true);
        },
        &|job| {
            let back =
                "policy = \"roll-back\"\nwindow = 2\nloss = 1.01\nmost = 100\ngrad_norm = inf";
            job.train.spike = Some(toml::from_str(back).unwrap());
            job.train.early_stopping = Some(toml::from_str("patience = 2").unwrap());
            job.train.checkpoint_every = 2;
        },
    ];
    for (index, change) in changes.iter().enumerate() {
        let alone = traces_of(data.path(), 1, change);
        assert!(traces_of(data.path(), 3, change) == alone, "change {index}");
    }
}

#[test]
fn a_run_goes_on_with_any_other_number_of_ranks() {
    let data = tempfile::tempdir().unwrap();
    let alone = traces_of(data.path(), 1, change_nothing);
    let folder = tempfile::tempdir().unwrap();
    let of = |ranks| finely(shared(data.path(), folder.path(), ranks));
    for (ranks, step) in [(3, 1), (1, 4), (2, 6)] {
        let stop = Stop::default();
        let outcome = run(&of(ranks), &at(step, || stop.request()), &stop).unwrap();
        assert_eq!(outcome, Outcome::Stopped { step });
    }
    // Killed, which no rank hears of.
    let killer = at(9, || panic!("killed"));
    catch_unwind(AssertUnwindSafe(|| run(&of(5), &killer, &Stop::default()))).unwrap_err();
    finish(&of(4));
    assert!(traces(folder.path()) == alone);
}

#[test]
fn micro_batches_that_the_recipe_leaves_open_are_cut_for_the_ranks() {
    let data = tempfile::tempdir().unwrap();
    let losses = |ranks| -> Vec<f64> {
        let folder = tempfile::tempdir().unwrap();
        let mut job = shared(data.path(), folder.path(), ranks);
        job.train.micro_batch_tokens = None;
        finish(&job);
        let lines = record::read(folder.path()).unwrap().into_iter();
        let loss = |line| match line {
            Line::Train(step) => Some(step.loss),
            Line::Validation(line) => Some(line.loss),
            Line::Anomaly(_) => None,
        };
        lines.filter_map(loss).collect()
    };
    let alone = losses(1);
    for ranks in [2, 4, 6] {
        for (shared, alone) in losses(ranks).iter().zip(&alone) {
            assert!(
                (shared - alone).abs() < 1e-4,
                "{ranks} ranks: {shared} {alone}"
            );
        }
    }
    // Six rows: everyone has some.
    for (ranks, rows) in [(1, 6), (2, 3), (3, 2), (4, 1), (6, 1)] {
        let job = shared(data.path(), data.path(), ranks);
        let train = Train {
            micro_batch_tokens: None,
            ..job.train.clone()
        };
        let loading = data::loading(&Job { train, ..job });
        assert_eq!(loading.rows_per_micro_batch, rows, "{ranks} ranks");
        assert_eq!((loading.rows_per_batch, loading.share), (6, Share::WHOLE));
    }
}

#[test]
fn more_ranks_than_micro_batches_are_refused() {
    let [data, folder] = folders();
    let job = shared(data.path(), folder.path(), 3);
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "3 devices share a global batch of 6 rows in 2 micro-batches: expected one for each device"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("`micro_batch_tokens` to 48 at most"),
        "{error:?}"
    );
    let job = shared(data.path(), folder.path(), 7);
    let error = run(&job, &Silent, &Stop::default()).unwrap_err();
    assert!(
        error.hint().unwrap().contains("name 6 devices at most"),
        "{error:?}"
    );
}

/// Three ranks with a learner each, and a batch for all of them.
fn three(data: &Path) -> (Ranks, Learner, Arc<GlobalBatch>, Train) {
    let job = finely(shared(data, data, 3));
    let devices = job.devices();
    let ranks = Ranks::start(&devices).unwrap();
    let loader = data::loader(&job).unwrap();
    let config = job.config.clone();
    let make = move |device: &Device| {
        let model = Model::new(&config, Key::new(1), device);
        Ok::<_, Error>(Learner::new(model, device))
    };
    let first = make(&devices[0]).unwrap();
    let first = ranks.seat(first, make).unwrap();
    let batch = Arc::new(loader.batch(0).unwrap());
    (ranks, first, batch, job.train)
}

/// What GPUs do but for NCCL: burn's collectives over all micro-batches of a rank, numbers
/// that come late, and what ranks may have come to by themselves sent to all.
#[test]
fn ranks_that_sum_as_gpus_do_train_the_same_but_for_rounding() {
    let data = tempfile::tempdir().unwrap();
    let job = finely(job(data.path(), data.path()));
    let loader = data::loader(&job).unwrap();
    let losses = |ranks: usize, kernels: Kernels, train: &Train| -> Vec<f64> {
        let devices = vec![Device::flex(); ranks];
        let collective = Arc::new(Devices::new(devices.clone()));
        let all = Ranks::start_with(&devices, collective).unwrap();
        let config = job.config.clone();
        let make = move |device: &Device| {
            let model = Model::new(&config, Key::new(1), device).with_kernels(kernels);
            Ok::<_, Error>(Learner::new(model, device))
        };
        let mut first = all.seat(make(&devices[0]).unwrap(), make).unwrap();
        let step = |index| {
            let (batch, train) = (loader.batch(index).unwrap(), train.clone());
            let step = move |learner: &mut Learner| learner.step(&batch, &train);
            let (own, others) = all.all(&mut first, step).unwrap();
            let own = own.unwrap();
            assert!(others.into_iter().all(|other| other.unwrap() == own));
            all.check_alike(&mut first).unwrap();
            own.loss
        };
        (0..6).map(step).collect()
    };
    for kernels in [Kernels::FUSED, Kernels::Plain] {
        for optimizer in [
            crate::recipe::Optimizer::Adamw,
            crate::recipe::Optimizer::Muon,
        ] {
            let train = Train {
                optimizer,
                ..job.train.clone()
            };
            let alone = losses(1, kernels, &train);
            for (shared, alone) in losses(3, kernels, &train).iter().zip(&alone) {
                assert!(
                    (shared - alone).abs() < 1e-4,
                    "{kernels:?}: {shared} {alone}"
                );
            }
        }
    }
}

#[test]
fn a_rank_that_fails_ends_the_step_of_all() {
    let data = tempfile::tempdir().unwrap();
    for failing in [1, 2] {
        let (ranks, mut first, batch, train) = three(data.path());
        let step = move |learner: &mut Learner| {
            assert!(learner.seat.rank() != failing, "no memory");
            learner.step(&batch, &train)
        };
        let error = ranks.all(&mut first, step).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("rank {failing} stopped: no memory")
        );
        // Whoever asks again hears the same.
        let (_, _, batch, train) = three(data.path());
        let again = first.step(&batch, &train).unwrap_err();
        assert_eq!(again.to_string(), error.to_string());
    }
}

#[test]
fn a_first_rank_that_fails_leaves_nobody_waiting() {
    let data = tempfile::tempdir().unwrap();
    let (ranks, mut first, batch, train) = three(data.path());
    let step = move |learner: &mut Learner| {
        assert!(learner.seat.rank() != 0, "no memory");
        learner.step(&batch, &train).map(drop)
    };
    let all = AssertUnwindSafe(|| drop(ranks.all(&mut first, step)));
    catch_unwind(all).unwrap_err();
    // Joins the threads of the others.
    drop(ranks);
}

#[test]
fn a_learner_that_cannot_be_made_is_an_error() {
    let data = tempfile::tempdir().unwrap();
    let (ranks, first, ..) = three(data.path());
    let none = |_: &Device| Err(Error::Weights { step: 7 });
    let error = ranks.seat(first, none).err().unwrap();
    assert_eq!(error.to_string(), "weights are not finite after step 7");
}

#[test]
fn weights_that_differ_are_noticed() {
    let data = tempfile::tempdir().unwrap();
    let (ranks, mut first, batch, train) = three(data.path());
    let step = move |learner: &mut Learner| learner.step(&batch, &train).map(drop);
    ranks.all(&mut first, step).unwrap().0.unwrap();
    ranks.check_alike(&mut first).unwrap();
    let spoil = |learner: &mut Learner| {
        if learner.seat.rank() == 2 {
            let mut values: Vec<_> = learner.model.tensors.iter().map(to_vec).collect();
            values[1][5] += 1e-6;
            learner.model = Model::from_values(&learner.model.config, values, &Device::flex());
        }
    };
    ranks.all(&mut first, spoil).unwrap();
    let error = ranks.check_alike(&mut first).unwrap_err();
    assert_eq!(
        error.to_string(),
        "after step 1 the weights of rank 2 are not those of rank 0"
    );
}
