//! Manners: mistakes are shown with their place, results are for scripts too.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use expect_test::{Expect, expect};

/// Runs the program in the repository, where the recipes are.
fn pausedata(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pausedata"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Compares exit code, stdout and stderr; all three are what scripts rely on.
fn check(arguments: &[&str], expected: Expect) {
    let output = pausedata(arguments);
    let shown = format!(
        "exit code {}\n{}{}",
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    expected.assert_eq(&shown);
}

#[test]
fn a_mistake_in_a_recipe_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.toml");
    let mut file = tempfile::NamedTempFile::new_in(&folder).unwrap();
    file.write_all(b"tokenizer = { train = { vocab_size = 300 } }\n[pretrain]\nsuorces = []\n")
        .unwrap();
    file.persist(&path).unwrap();
    let path = path.to_str().unwrap();
    let output = pausedata(&["prepare", path]);
    let shown = String::from_utf8(output.stderr).unwrap();
    expect![[r#"
        error: unknown key `suorces` in `pretrain`
           --> r.toml:3:1
            |
          3 | suorces = []
            | ^^^^^^^

        hint: did you mean `sources`?
    "#]]
    .assert_eq(&shown.replace(path, "r.toml"));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_mistake_in_an_override_is_shown_with_its_place() {
    let recipe = "pipelines/quickstart.toml";
    check(
        &["prepare", recipe, "--set", "pretrain.pack.seq_len=4"],
        expect![[r#"
            exit code 2
            error: `pretrain.pack.seq_len` must be at least 8, found 4
              --> --set pretrain.pack.seq_len=4
               |
               | pretrain.pack.seq_len=4
               |                       ^
        "#]],
    );
    check(
        &["prepare", recipe, "--json", "--set", "seed=x"],
        expect![[r#"
            exit code 2
            {"error":"expected a whole number of 0 or more in `seed`, found the string \"x\"","kind":"bad-input","exit_code":2,"place":{"file":null,"line":1,"column":6,"text":"seed=x"},"hints":[]}
        "#]],
    );
}

#[test]
fn what_is_missing_is_named() {
    check(
        &["prepare", "nowhere.toml"],
        expect![[r#"
        exit code 2
        error: cannot open `nowhere.toml`: No such file or directory (os error 2)

        hint: recipes that work stand in `pipelines/`
    "#]],
    );
    check(
        &["prepare", "--json"],
        expect![[r#"
        exit code 2
        {"error":"the following required arguments were not provided:\n  <RECIPE>","kind":"bad-input","exit_code":2,"place":null,"hints":["`pausedata --help` shows the commands and their arguments"]}
    "#]],
    );
    check(
        &["doctor", "/nonexistent"],
        expect![[r#"
        exit code 1
        error: cannot read `/nonexistent`: No such file or directory (os error 2)
    "#]],
    );
}

#[test]
fn the_schema_is_printed_as_it_stands_on_disk() {
    let output = pausedata(&["schema"]);
    let file = include_bytes!("../../schemas/recipe.schema.json");
    assert!(output.status.success() && output.stdout == file);
}

#[test]
fn doctor_speaks_json() {
    let output = pausedata(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report.get("version").unwrap(), env!("CARGO_PKG_VERSION"));
    assert!(output.stderr.is_empty());
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = pausedata(&["completions", shell]);
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(script.contains("prepare"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command(&["completions", "bash"])
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    assert!(output.status.success());
}

#[cfg(not(feature = "train"))]
#[test]
fn a_build_without_training_says_so() {
    check(
        &["train", "pipelines/quickstart.toml"],
        expect![[r#"
        exit code 1
        error: this build of pausedata cannot train: it lacks training

        hint: install one that can: `cargo install --path .`, with its default features
    "#]],
    );
}
