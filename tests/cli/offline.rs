//! Sources on other machines, where nothing may or can be fetched.

use super::sandbox::Sandbox;

const SET: &str = "--only pretrain --set pretrain.sources.0.path=s3://bucket/a.jsonl";

#[test]
fn without_the_network_an_unknown_url_is_refused() {
    let sandbox = Sandbox::new();
    let said = sandbox.run(&format!("prepare recipe.toml --out out --offline {SET}"));
    assert_eq!(said.code, Some(1), "{}", said.err);
    for words in ["`s3://bucket/a.jsonl` was never listed", "--offline"] {
        assert!(said.err.contains(words), "{}", said.err);
    }
}

#[cfg(not(feature = "cloud"))]
#[test]
fn a_build_without_the_feature_names_it() {
    let sandbox = Sandbox::new();
    let said = sandbox.run(&format!("prepare recipe.toml --out out {SET}"));
    assert_eq!(said.code, Some(1), "{}", said.err);
    for words in [
        "s3://bucket/a.jsonl",
        "lacks the feature `cloud`",
        "--features cloud",
    ] {
        assert!(said.err.contains(words), "{}", said.err);
    }
}

#[test]
fn other_schemes_are_refused() {
    let sandbox = Sandbox::new();
    let said = sandbox
        .run("plan recipe.toml --only pretrain --set pretrain.sources.0.path=ftp://h/a.jsonl");
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("its scheme is none of"), "{}", said.err);
}
