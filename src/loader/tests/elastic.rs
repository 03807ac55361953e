//! A run may stop at every step and go on with other processes: the rows are the same.

use super::*;

const WORLDS: [usize; 4] = [1, 2, 3, 8];

/// The rows of some global batches, made by `world` processes, in the order of the batch.
fn run(members: &[(u64, f64)], config: Config, world: usize, batches: [u64; 2]) -> Vec<Pick> {
    let ranks: Vec<Loader> = (0..world)
        .map(|rank| {
            let share = Share { rank, world };
            several(members, Config { share, ..config }).unwrap()
        })
        .collect();
    let [from, to] = batches;
    let mut rows = Vec::new();
    for k in from..to {
        let mut shares: Vec<_> = ranks
            .iter()
            .map(|rank| rank.rows_of(k).into_iter())
            .collect();
        let dealt = (0..config.rows_per_batch).map(|place| shares[place % world].next());
        rows.extend(dealt.flatten());
        assert!(shares.into_iter().all(|mut rest| rest.next().is_none()));
    }
    rows
}

fn several(members: &[(u64, f64)], config: Config) -> Result<Loader, Error> {
    let toys = members
        .iter()
        .map(|(n_rows, _)| Arc::new(Toy::new(*n_rows)) as Arc<dyn Rows>);
    let weights: Vec<f64> = members.iter().map(|(_, weight)| *weight).collect();
    let mixture = match weights.len() {
        1 => Vec::new(),
        _ => vec![Phase { from: 0, weights }],
    };
    Loader::of_several(toys.collect(), mixture, config)
}

/// An epoch of 37 rows in batches of 8 with each number of processes, stopped after each
/// step and continued by each other number.
#[test]
fn every_row_comes_once_wherever_a_run_stops_and_whoever_goes_on() {
    for bucket in [0, 1, 3, 100] {
        let config = Config {
            epochs: Some(1),
            bucket,
            ..config(8, 3)
        };
        every_stop(config);
    }
}

fn every_stop(config: Config) {
    let one = [(37, 1.0)];
    let whole = run(&one, config, 1, [0, 5]);
    let mut rows: Vec<u64> = whole.iter().map(|pick| pick.index).collect();
    rows.sort_unstable();
    assert!(rows.into_iter().eq(0..37));
    for (before, after) in WORLDS.iter().flat_map(|a| WORLDS.map(|b| (*a, b))) {
        for stop in 0..=5 {
            let mut rows = run(&one, config, before, [0, stop]);
            // What a process knows of the other run is its state as text.
            let state = several(&one, config).unwrap().state(stop);
            let state = serde_json::to_string(&state).unwrap();
            let share = Share {
                rank: 0,
                world: after,
            };
            let resumed = several(&one, Config { share, ..config }).unwrap();
            let next = resumed
                .resume(&serde_json::from_str(&state).unwrap())
                .unwrap();
            rows.extend(run(&one, config, after, [next, 5]));
            assert_eq!(
                rows, whole,
                "{before} processes to step {stop}, then {after}"
            );
        }
    }
}

#[test]
fn a_mixture_goes_on_as_it_was() {
    let members = [(11, 2.0), (5, 1.0), (40, 0.5)];
    for bucket in [4, 0] {
        let config = Config {
            bucket,
            ..config(8, 8)
        };
        let whole = run(&members, config, 1, [0, 12]);
        for (before, after) in WORLDS.iter().flat_map(|a| WORLDS.map(|b| (*a, b))) {
            for stop in 0..=12 {
                let mut rows = run(&members, config, before, [0, stop]);
                rows.extend(run(&members, config, after, [stop, 12]));
                assert_eq!(rows, whole);
            }
        }
    }
    let config = config(8, 8);
    let whole = run(&members, config, 1, [0, 12]);
    let loader = several(&members, config).unwrap();
    let taken = |member| whole.iter().filter(|pick| pick.member == member).count();
    assert_eq!([0, 1, 2].map(taken), [55, 27, 14]);
    assert_eq!(loader.epochs_before(12), [5.0, 27.0 / 5.0, 0.35]);
    // Batches hold what the picks say.
    for k in 0..12 {
        let ids = rows(&loader.batch(k).unwrap())
            .into_iter()
            .map(|(ids, ..)| ids[0]);
        let picks = loader.rows_of(k).into_iter();
        assert!(ids.eq(picks.map(|pick| TokenId(10 + pick.index as u32))));
    }
}

#[test]
fn another_run_is_refused_and_the_difference_named() {
    let told = |loader: &Loader, state: &State| match loader.resume(state) {
        Ok(next) => format!("continues at {next}"),
        Err(error) => error.to_string(),
    };
    let toy = |name, n_rows| Toy {
        name,
        ..Toy::new(n_rows)
    };
    let state = loader(toy("a", 8), config(2, 2)).state(7);
    assert_eq!(
        told(&loader(toy("a", 8), config(2, 1)), &state),
        "continues at 7"
    );
    let others = [
        (toy("b", 8), config(2, 2)),
        (toy("b", 9), config(2, 2)),
        (
            toy("a", 8),
            Config {
                seed: 5,
                ..config(2, 2)
            },
        ),
        (toy("a", 8), config(4, 4)),
        (
            toy("a", 8),
            Config {
                bucket: 9,
                ..config(2, 2)
            },
        ),
        (
            toy("a", 8),
            Config {
                epochs: Some(2),
                order: Order::Sequential,
                ..config(2, 2)
            },
        ),
    ];
    let others = others.map(|(toy, config)| told(&loader(toy, config), &state));
    expect![[r#"
        the state is that of another run: `dataset` was a and is b
        the state is that of another run: `dataset` was a and is b, `recipe.pause.fraction` was 8 and is 9
        the state is that of another run: `seed` was 4 and is 5
        the state is that of another run: `rows a batch` was 2 and is 4
        the state is that of another run: `bucket` was absent and is 9
        the state is that of another run: `epochs` was absent and is 2, `order` was shuffled and is sequential
    "#]]
    .assert_eq(&(others.join("\n") + "\n"));
    let mixed = several(&[(8, 1.0), (9, 2.0)], config(2, 2)).unwrap();
    let lighter = several(&[(8, 1.0), (10, 1.0)], config(2, 2)).unwrap();
    expect!["the state is that of another run: `dataset 2.recipe.pause.fraction` was 9 and is 10, `mixture.0.weights.1` was 2.0 and is 1.0"]
        .assert_eq(&told(&lighter, &mixed.state(1)));
}

#[test]
fn a_process_without_a_part_is_refused() {
    let told = |members: &[(u64, f64)], config| several(members, config).unwrap_err().to_string();
    let share = |rank, world| Config {
        share: Share { rank, world },
        ..config(2, 2)
    };
    for (rank, world) in [(2, 2), (0, 3), (0, 0)] {
        let text = told(&[(8, 1.0)], share(rank, world));
        assert!(
            text.starts_with(&format!("rank {rank} of {world} has no part")),
            "{text}"
        );
    }
    let epochs = Config {
        epochs: Some(1),
        ..config(2, 2)
    };
    assert_eq!(
        told(&[(8, 1.0), (9, 1.0)], epochs),
        "2 datasets have no epochs in common: expected a number of batches"
    );
    assert_eq!(
        told(&[(8, 1.0), (0, 1.0)], config(2, 2)),
        "expected rows in the Train split, found none"
    );
}
