//! `stats` and its page.

use crate::sandbox::Sandbox;

fn stats(sandbox: &Sandbox, arguments: &str) -> serde_json::Value {
    let said = sandbox.ok(&format!("stats {arguments} --json"));
    serde_json::from_str(&said.out).unwrap()
}

fn sum<'a>(values: impl IntoIterator<Item = &'a serde_json::Value>) -> u64 {
    values
        .into_iter()
        .map(|value| value.as_u64().unwrap())
        .sum()
}

/// What is counted in the rows is what was counted while they were written.
#[test]
fn counts_of_rows_are_those_of_the_manifest() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    for stage in ["pretrain", "finetune"] {
        let stats = stats(&sandbox, &format!("out/data/{stage}"));
        for split in stats["splits"].as_object().unwrap().values() {
            let total = |name: &str| split[name].as_u64().unwrap();
            let items = |name: &str, field: &str| {
                let bins = split[name].as_array().unwrap();
                sum(bins.iter().map(|bin| &bin[field]))
            };
            let kind = |name: &str| split["kinds"][name].as_u64().unwrap_or(0);
            let ids = total("real") + total("pauses");
            assert_eq!(sum(split["kinds"].as_object().unwrap().values()), ids);
            assert_eq!(kind("pause"), total("pauses"));
            assert_eq!(kind("scored") + kind("end"), total("scored"));
            assert_eq!(items("along", "ids"), ids);
            assert_eq!(items("along", "pauses"), total("pauses"));
            assert_eq!(items("along", "scored"), total("scored"));
            assert_eq!(items("lengths", "count"), total("rows"));
            assert_eq!(items("pauses_a_row", "count"), total("rows"));
            assert_eq!(items("document_bytes", "count"), total("documents"));
        }
        let files = stats["files"].as_array().unwrap();
        assert_eq!(
            sum(files.iter().map(|file| &file["documents"])),
            stats["ledger"]["read"]
        );
        let kept = files
            .iter()
            .flat_map(|file| file["kept"].as_object().unwrap().values());
        assert_eq!(sum(kept), stats["ledger"]["kept"]);
    }
}

#[test]
fn a_page_is_written_beside_the_numbers() {
    let sandbox = Sandbox::new();
    sandbox.ok("prepare recipe.toml --out out");
    let plain = sandbox.ok("stats out/data/pretrain");
    let said = sandbox.ok("stats out/data/pretrain --html page.html --sample 3");
    assert_eq!(said.out, plain.out);
    assert_eq!(said.err, "wrote page.html\n");
    let page = sandbox.read("page.html");
    assert!(page.contains("<h2>Sample rows</h2>"));
    assert_eq!(page.matches("<h3>row ").count(), 3);
    sandbox.ok("stats out/data/pretrain --html again.html --sample 3 --threads 3");
    assert!(sandbox.read("again.html") == page);
    let none = sandbox.ok("stats out/data/pretrain --html none.html --sample 0 --json");
    assert!(none.out.starts_with('{'));
    assert!(!sandbox.read("none.html").contains("<h2>Sample rows</h2>"));
    let said = sandbox.run("stats out/data/pretrain --sample 3");
    assert_eq!(said.code, Some(2), "{}", said.err);
    let said = sandbox.run("stats out/data/pretrain --html recipe.toml/page.html");
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("recipe.toml"), "{}", said.err);
}

#[test]
fn hostile_text_stays_text() {
    let sandbox = Sandbox::new();
    let text = r#"{"text": "</pre></main><script>alert(1)</script><img src=x onerror=alert(2)>\u0000\u001b[31m\u202egnp.exe & \"quoted\" 'too' <!-- ]]>"}"#;
    sandbox.write("text/<b>&\".jsonl", format!("{text}\n").repeat(50));
    sandbox.ok("prepare recipe.toml --out out --only pretrain --set pretrain.validation=0 --set pretrain.train.validate_every=0");
    sandbox.ok("stats out/data/pretrain --html page.html --sample 100000");
    let page = sandbox.read("page.html");
    for hostile in [
        "<script",
        "<img",
        "</pre></main>",
        "<!-- ",
        "<b>&\"",
        "\0",
        "\u{1b}",
        "\u{202e}",
    ] {
        assert!(!page.contains(hostile), "{hostile:?} came through");
    }
    assert!(page.contains("&lt;b&gt;&amp;&quot;.jsonl"));
    assert!(page.contains("U+202E"));
}
