//! Killed and resumed equals never killed.

use std::process::Child;
use std::time::{Duration, Instant};

use super::sandbox::Sandbox;

/// Kills the program after `delay`; tells whether it was still running.
fn kill(mut child: Child, delay: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < delay {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// Delays spread over the time that one undisturbed run takes.
fn delays(whole: Duration, n: u32) -> impl Iterator<Item = Duration> {
    (0..n).map(move |i| whole * (2 * i + 1) / (2 * n))
}

#[test]
fn prepare_killed_at_any_moment_gives_the_same_dataset() {
    let sandbox = Sandbox::new();
    let start = Instant::now();
    sandbox.ok("prepare recipe.toml --out whole");
    let whole = start.elapsed();
    let digests = |out: &str| {
        ["pretrain", "finetune"].map(|stage| sandbox.digest(&format!("{out}/data/{stage}")))
    };
    let expected = digests("whole");
    let mut killed = 0;
    for (i, delay) in delays(whole, 30).enumerate() {
        let out = format!("out{i}");
        killed += u32::from(kill(
            sandbox.spawn(&format!("prepare recipe.toml --out {out}")),
            delay,
        ));
        sandbox.ok(&format!("prepare recipe.toml --out {out}"));
        assert_eq!(digests(&out), expected, "killed after {delay:?}");
        let leftovers = super::sandbox::files(&sandbox.path(&out).join("data"))
            .into_iter()
            .filter(|path| {
                path.file_name()
                    .unwrap()
                    .to_string_lossy()
                    .starts_with(".tmp-")
            });
        assert_eq!(leftovers.count(), 0, "temporary files stay after {delay:?}");
    }
    assert!(
        5 <= killed,
        "only {killed} of 30 runs were killed: the test proves little"
    );
}

#[cfg(feature = "train")]
#[test]
fn training_killed_at_any_moment_gives_the_same_curve_and_weights() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out whole");
    sandbox.ok("prepare recipe.toml --out other");
    let start = Instant::now();
    sandbox.ok("train recipe.toml --out whole");
    let whole = start.elapsed();
    let expected = super::training::outcome(&sandbox, "whole");
    let mut killed = 0;
    for delay in delays(whole, 8) {
        std::fs::remove_dir_all(sandbox.path("other/train")).ok();
        killed += u32::from(kill(sandbox.spawn("train recipe.toml --out other"), delay));
        sandbox.ok("train recipe.toml --out other");
        let outcome = super::training::outcome(&sandbox, "other");
        assert!(
            outcome == expected,
            "killed after {delay:?}: another curve or other weights"
        );
    }
    assert!(
        1 <= killed,
        "only {killed} of 8 runs were killed: the test proves little"
    );
}
