//! Mistakes in recipes, as their authors are told of them.

use std::path::Path;

use expect_test::{Expect, expect};

use super::{Error, Recipe};

const GOOD: &str = r#"seed = 7
tokenizer = { train = { vocab_size = 300 } }

[pretrain]
sources = [{ path = "a.jsonl" }, { path = "b.txt" }]
pause = { policy = "random", fraction = 0.1 }
pack = { seq_len = 64 }

[pretrain.train]
steps = 10
batch_tokens = 128
lr = 1e-3
"#;

fn check(text: &str, overrides: &[&str], expected: Expect) {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    let shown = match Recipe::parse(text, Path::new("r.toml"), &overrides) {
        Ok(recipe) => format!("{recipe:#?}\n"),
        Err(Error::Invalid(diagnosis)) => {
            let mut lines = vec![diagnosis.message.clone()];
            lines.extend(diagnosis.place.iter().flat_map(|place| place.excerpt()));
            lines.extend(diagnosis.hints.iter().map(|hint| format!("hint: {hint}")));
            lines.join("\n") + "\n"
        }
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&shown);
}

fn check_edit(from: &str, to: &str, expected: Expect) {
    assert!(GOOD.contains(from));
    check(&GOOD.replace(from, to), &[], expected);
}

#[test]
fn unknown_keys() {
    check_edit(
        "seed = 7",
        "seed = 7\nsede = 8",
        expect![[r#"
        unknown key `sede`
         --> r.toml:2:1
          |
        2 | sede = 8
          | ^^^^
        hint: did you mean `seed`?
    "#]],
    );
    check_edit(
        "fraction = 0.1",
        "fractoin = 0.1",
        expect![[r#"
        unknown key `fractoin` in `pretrain.pause`
         --> r.toml:6:30
          |
        6 | pause = { policy = "random", fractoin = 0.1 }
          |                              ^^^^^^^^
        hint: did you mean `fraction`?
    "#]],
    );
    check_edit(
        "\"random\", fraction",
        "\"none\", fraction",
        expect![[r#"
        unknown key `fraction` in `pretrain.pause` with `policy = "none"`
         --> r.toml:6:28
          |
        6 | pause = { policy = "none", fraction = 0.1 }
          |                            ^^^^^^^^
        hint: replace the whole table: `--set 'pretrain.pause={policy="none"}'`
    "#]],
    );
    check_edit(
        "path = \"b.txt\"",
        "path = \"b.txt\", txet = \"x\"",
        expect![[r#"
            unknown key `txet` in `pretrain.sources.1`
             --> r.toml:5:52
              |
            5 | sources = [{ path = "a.jsonl" }, { path = "b.txt", txet = "x" }]
              |                                                    ^^^^
            hint: did you mean `text`?
        "#]],
    );
}

#[test]
fn unknown_values() {
    check_edit(
        "fraction = 0.1",
        "fraction = 0.1, law = \"iid\"",
        expect![[r#"
            unknown value `iid` in `pretrain.pause`, expected one of `uniform-interleaving`, `distinct-gaps`, `iid-gaps`, `runs`
             --> r.toml:6:52
              |
            6 | pause = { policy = "random", fraction = 0.1, law = "iid" }
              |                                                    ^^^^^
            hint: did you mean `iid-gaps`?
        "#]],
    );
    check_edit(
        "\"random\"",
        "\"randm\"",
        expect![[r#"
            unknown value `randm` in `pretrain.pause`, expected one of `none`, `random`, `suffix`, `prefix`, `stride`, `word-ends`, `punctuation`, `digits`, `regex`, `score`, `positions`, `mix`
             --> r.toml:6:20
              |
            6 | pause = { policy = "randm", fraction = 0.1 }
              |                    ^^^^^^^
            hint: did you mean `random`?
        "#]],
    );
    check_edit(
        "steps = 10",
        "steps = 10\nschedule = \"cosin\"",
        expect![[r#"
            unknown value `cosin` in `pretrain.train.schedule`, expected one of `constant`, `cosine`, `linear`, `wsd`
              --> r.toml:11:12
               |
            11 | schedule = "cosin"
               |            ^^^^^^^
            hint: did you mean `cosine`?
        "#]],
    );
}

#[test]
fn wrong_values() {
    check_edit(
        "fraction = 0.1",
        "fraction = \"0.1\"",
        expect![[r#"
        expected a number in `pretrain.pause`, found the string "0.1"
         --> r.toml:6:41
          |
        6 | pause = { policy = "random", fraction = "0.1" }
          |                                         ^^^^^
    "#]],
    );
    check_edit(
        "lr = 1e-3",
        "lr = true",
        expect![[r#"
        expected a number in `pretrain.train.lr`, found true
          --> r.toml:12:6
           |
        12 | lr = true
           |      ^^^^
    "#]],
    );
    check_edit(
        "steps = 10",
        "steps = -10",
        expect![[r#"
        expected a whole number of 0 or more in `pretrain.train.steps`, found -10
          --> r.toml:10:9
           |
        10 | steps = -10
           |         ^^^
    "#]],
    );
    check_edit(
        "steps = 10",
        "steps = 0",
        expect![[r#"
        `pretrain.train.steps` must be at least 1, found 0
          --> r.toml:10:9
           |
        10 | steps = 0
           |         ^
    "#]],
    );
}

#[test]
fn missing_keys_and_values() {
    check_edit(
        ", fraction = 0.1",
        "",
        expect![[r#"
        missing key `fraction` in `pretrain.pause`
         --> r.toml:6:9
          |
        6 | pause = { policy = "random" }
          |         ^^^^^^^^^^^^^^^^^^^^^
    "#]],
    );
    check_edit(
        "steps = 10\n",
        "",
        expect![[r#"
        missing key `steps` in `pretrain.train`
         --> r.toml:9:1
          |
        9 | [pretrain.train]
          | ^^^^^^^^^^^^^^^^
    "#]],
    );
    check_edit(
        "steps = 10",
        "steps = ",
        expect![[r#"
            this is no TOML: a value is missing, or a string has no quotes
              --> r.toml:10:9
               |
            10 | steps = 
               |         ^
        "#]],
    );
    check_edit(
        "pack = { seq_len = 64 }",
        "",
        expect![[r#"
        missing key `pack` in `pretrain`
         --> r.toml:4:1
          |
        4 | [pretrain]
          | ^^^^^^^^^^
    "#]],
    );
    check_edit(
        "tokenizer = { train",
        "model = { d_ff = 0 } #",
        expect![[r#"
            `tokenizer` is missing
            hint: add `tokenizer = { train = { vocab_size = 2048 } }` or `{ file = "tokenizer.json" }`
        "#]],
    );
}

#[test]
fn mistakes_on_the_command_line() {
    check(
        GOOD,
        &["seed=8", "pretrain.pause.fractoin=0.2"],
        expect![[r#"
            unknown key `fractoin` in `pretrain.pause`
            --> --set pretrain.pause.fractoin=0.2
             |
             | pretrain.pause.fractoin=0.2
             |                ^^^^^^^^
            hint: did you mean `fraction`?
        "#]],
    );
    check(
        GOOD,
        &["pretrain.train.steps=many"],
        expect![[r#"
        expected a whole number of 0 or more in `pretrain.train.steps`, found the string "many"
        --> --set pretrain.train.steps=many
         |
         | pretrain.train.steps=many
         |                      ^^^^
    "#]],
    );
    check(
        GOOD,
        &["pretrain.train.steps=0"],
        expect![[r#"
        `pretrain.train.steps` must be at least 1, found 0
        --> --set pretrain.train.steps=0
         |
         | pretrain.train.steps=0
         |                      ^
    "#]],
    );
}

#[test]
fn overrides_that_fit_nowhere() {
    check(
        GOOD,
        &["pretrain.sources.2.path=c"],
        expect![[r#"
            expected an index below 2, found `2`
            --> --set pretrain.sources.2.path=c
             |
             | pretrain.sources.2.path=c
             |                  ^
        "#]],
    );
    check(
        GOOD,
        &["seed.x=c"],
        expect![[r#"
        `x` would be inside a value that is no table
        --> --set seed.x=c
         |
         | seed.x=c
         |      ^
    "#]],
    );
}

#[test]
fn overrides_that_are_none() {
    check(
        GOOD,
        &["seed"],
        expect![[r#"
        expected `--set key=value`, found `seed`
        --> --set seed
         |
         | seed
         | ^^^^
    "#]],
    );
    check(
        GOOD,
        &["pretrain..x=1"],
        expect![[r#"
        a key of `--set` is empty
        --> --set pretrain..x=1
         |
         | pretrain..x=1
         |          ^
    "#]],
    );
    check(
        GOOD,
        &["pretrain.pack={seq_len=}"],
        expect![[r#"
            this is no TOML: a value is missing, or a string has no quotes
            --> --set pretrain.pack={seq_len=}
             |
             | pretrain.pack={seq_len=}
             |                        ^
        "#]],
    );
    check(
        GOOD,
        &["pretrain.sources.1.pth=c"],
        expect![[r#"
        unknown key `pth` in `pretrain.sources.1`
        --> --set pretrain.sources.1.pth=c
         |
         | pretrain.sources.1.pth=c
         |                    ^^^
        hint: did you mean `path`?
    "#]],
    );
}

#[test]
fn overrides_replace_and_add_values() {
    let overrides = [
        "seed = 8",
        "pretrain.sources.1.path=c.txt",
        "pretrain.pause={policy='none'}",
        "model.preset=micro",
        "pretrain.train.schedule=\"linear\"",
        "finetune.sources=[{path='q',prefix='p',target=' t'}]",
        "finetune.pack.seq_len=32",
        "pretrain.sources.0.text=a = b # c",
    ];
    let overrides = overrides.map(String::from);
    let recipe = Recipe::parse(GOOD, Path::new("r.toml"), &overrides).unwrap();
    let pretrain = recipe.pretrain.unwrap();
    assert_eq!(recipe.seed, 8);
    assert_eq!(pretrain.sources[1].path.as_deref(), Some("c.txt"));
    assert_eq!(pretrain.sources[0].text.as_deref(), Some("a = b # c"));
    assert_eq!(pretrain.pause, crate::pause::Policy::None.into());
    assert_eq!(
        recipe.model.preset,
        Some(crate::model::config::Preset::Micro)
    );
    assert_eq!(
        pretrain.train.unwrap().schedule,
        crate::recipe::Schedule::Linear
    );
    assert_eq!(recipe.finetune.unwrap().pack.seq_len, 32);
}

#[test]
fn no_override_makes_it_panic() {
    for piece in [
        "=",
        ".",
        "a=",
        "=1",
        "é=ü",
        "seed=\n",
        "seed=1\nb=2",
        "seed=[",
        "\u{0}=1",
    ] {
        drop(Recipe::parse(
            GOOD,
            Path::new("r.toml"),
            &[piece.to_string()],
        ));
        drop(Recipe::parse("", Path::new("r.toml"), &[piece.to_string()]));
    }
}

#[test]
fn mixtures() {
    let told = |keys: &str| {
        let good = GOOD.to_string() + keys + "\n";
        match Recipe::parse(&good, Path::new("r.toml"), &[]) {
            Ok(recipe) => {
                let train = recipe.pretrain.unwrap().train.unwrap();
                let phases = train.phases().into_iter();
                let phases = phases.map(|phase| format!("{}: {:?}\n", phase.from, phase.weights));
                phases.collect()
            }
            Err(Error::Invalid(told)) => format!("{told} {}\n", told.hints.join(" ")),
            Err(error) => error.to_string(),
        }
    };
    let two = "mixture = [{ weight = 3 }, { dataset = '../b', weight = 1 }]";
    let then = |curriculum: &str| told(&format!("{two}\ncurriculum = [{curriculum}]"));
    let all = [
        told(two),
        then("{ from_step = 4, weights = [0, 1] }"),
        told("curriculum = [{ from_step = 4, weights = [1] }]"),
        told("mixture = [{ dataset = 'b', weight = 1 }]"),
        told("mixture = [{ weight = 1 }, { weight = 1 }]"),
        told("mixture = [{ weight = -1 }]"),
        told("mixture = [{ wight = 1 }]"),
        then("{ from_step = 0, weights = [1, 1] }"),
        then("{ from_step = 10, weights = [1, 1] }"),
        then("{ from_step = 4, weights = [1] }"),
        then("{ from_step = 4, weights = [0, 0] }"),
        then("{ from_step = 4, weights = [1, 1] }, { from_step = 4, weights = [1, 2] }"),
    ];
    expect![[r#"
        0: [3.0, 1.0]
        0: [3.0, 1.0]
        4: [0.0, 1.0]
        `pretrain.train.curriculum` needs a `mixture`, whose weights it changes (r.toml:13:14) `mixture = [{ weight = 1 }, { dataset = "..", weight = 1 }]`
        `pretrain.train.mixture` leaves out the stage's own dataset (r.toml:13:11) add an entry without `dataset`, such as `{ weight = 1 }`
        `pretrain.train.mixture.1` is the stage's own dataset a second time (r.toml:13:28) name another one: `dataset = "../other/data/pretrain"`
        `pretrain.train.mixture.0.weight` must be 0 or more, at least one weight above 0, and none too small beside the others, found -1 (r.toml:13:23) 
        unknown key `wight` in `pretrain.train.mixture.0` (r.toml:13:14) did you mean `weight`?
        `pretrain.train.curriculum.0.from_step` must be at least 1, found 0 (r.toml:14:29) the weights of `mixture` are the first
        `pretrain.train.curriculum.0.from_step` must be less than `steps`, 10, found 10 (r.toml:14:29) 
        `pretrain.train.curriculum.0.weights` has 1 weights, but `mixture` has 2 datasets (r.toml:14:42) 
        `pretrain.train.curriculum.0.weights.0` must be 0 or more, at least one weight above 0, and none too small beside the others, found 0 (r.toml:14:43) 
        `pretrain.train.curriculum.1.from_step` must be 5 or later, found 4 (r.toml:14:66) 
    "#]].assert_eq(&all.concat());
}

#[test]
fn what_is_trained_of_a_model_is_checked() {
    let told = |overrides: &[&str]| {
        let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
        match Recipe::parse(GOOD, Path::new("r.toml"), &overrides) {
            Ok(_) => "ok\n".to_owned(),
            Err(Error::Invalid(diagnosis)) => diagnosis.message + "\n",
            Err(error) => format!("{error}\n"),
        }
    };
    let lora = |text: &str| {
        let key = format!("finetune.train.lora={{{text}}}");
        let stage = "finetune={sources=[{path='q',prefix='a',target='b'}],pack={seq_len=64},train={steps=1,batch_tokens=2048,lr=1}}";
        told(&[stage, &key])
    };
    let all = [
        lora("rank=4,alpha=8"),
        lora("rank=4,alpha=8,targets=[\"q\",\"down\"]"),
        lora("rank=0,alpha=8"),
        lora("rank=4,alpha=0"),
        lora("rank=4,alpha=8,targets=[]"),
        lora("rank=4,alpha=8,targets=[\"q\",\"v\",\"q\"]"),
        told(&["pretrain.train.lora={rank=4,alpha=8}"]),
        told(&["pretrain.train.z_loss=-1"]),
        told(&["model.logit_soft_cap=0"]),
        told(&["model.new_rows=random"]),
    ];
    expect![[r#"
        ok
        ok
        `finetune.train.lora.rank` must be at least 1, found 0
        `finetune.train.lora.alpha` must be a positive number, found 0
        `finetune.train.lora.targets` is empty
        `finetune.train.lora.targets.2` names `q` twice
        `pretrain.train.lora` adapts weights that nobody has trained
        `pretrain.train.z_loss` must lie in 0 to 1, found -1
        `model.logit_soft_cap` is 0, not a positive number
        `model.new_rows` needs `from`: a fresh model has no other rows
    "#]]
    .assert_eq(&all.concat());
}

#[test]
fn pauses_that_are_text_cannot_be_all_that_is_trained() {
    let frozen = "pretrain.train.freeze=all-but-pause".to_string();
    let parse = |overrides: &[String]| Recipe::parse(GOOD, Path::new("r.toml"), overrides);
    assert!(parse(std::slice::from_ref(&frozen)).is_ok());
    let filler = "pretrain.pause.token={filler=\".\"}".to_string();
    let Err(Error::Invalid(diagnosis)) = parse(&[frozen, filler]) else {
        panic!("nothing would be trained");
    };
    let message = &diagnosis.message;
    assert!(
        message.contains("`pretrain.train.freeze` leaves only pause"),
        "{message}"
    );
}
