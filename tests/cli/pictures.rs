//! The pictures of `docs/policies.md` are what the program does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pausedata::fs;
use pausedata::pause::{self, Config, Insertion, Pieces};
use pausedata::rng::{Key, Stream};
use pausedata::sequence::Sequence;
use pausedata::token::{Extra, PauseIds, Reserved, TokenId};

const PAGE: &str = "docs/policies.md";
const TEXT: &str = "The/ cat/ sat/,/ then/ slept/./■/It/ was/ 7/:/3/0/,/ and/ late/./■";
const EXAMPLE: &str = "Is/ it/ late/?/>/ Yes/,/ very/./■";
const HINT: [&str; 3] = ["count", "the", "hours"];

/// A vocabulary of the words above: the first ids are reserved.
const RESERVED: Reserved = Reserved {
    pause: TokenId(0),
    end: TokenId(1),
    pad: TokenId(2),
    extra: Extra {
        first: TokenId(3),
        distinct: 3,
        delimiters: true,
    },
};
const NAMES: [&str; 8] = ["⏸", "■", "_", "⏸0", "⏸1", "⏸2", "⟨", "⟩"];

fn words() -> Vec<&'static str> {
    let text = TEXT.split('/').chain(EXAMPLE.split('/')).chain(HINT);
    let mut words = NAMES.to_vec();
    for word in text.filter(|word| *word != ">") {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    words
}

fn id(word: &str) -> TokenId {
    let at = words().iter().position(|other| *other == word).unwrap();
    TokenId(u32::try_from(at).unwrap())
}

fn word(id: TokenId) -> String {
    words()[id.index()].trim_start().to_string()
}

/// The row of a text or an example, with what its source says about it.
fn row(text: &str) -> Sequence {
    let mut row = Sequence::default();
    for word in text.split('/') {
        match word {
            ">" => row.prefix = Some(u32::try_from(row.len()).unwrap()),
            word => row.ids.push(id(word)),
        }
    }
    // Scores fall at rare words, which here are the long ones; positions are drawn by hand.
    row.marks = (row.ids.iter())
        .map(|id| match words()[id.index()] {
            "■" => f32::NAN,
            word => -(word.len() as f32),
        })
        .collect();
    row.hint = HINT.map(id).to_vec();
    row
}

fn insertion(config: &str, length: usize) -> Insertion {
    let config: Config = toml::from_str(&format!("pause = {{ {config} }}"))
        .map(|mut table: toml::Table| table.remove("pause").unwrap().try_into().unwrap())
        .unwrap();
    let filler = match &config.token {
        pause::Token::Filler(text) => Some(id(text)),
        _ => None,
    };
    let spelt = words();
    let pieces = || {
        let spelt = spelt.iter().enumerate();
        let bytes = spelt.map(|(at, word)| {
            if at < 8 {
                [].as_slice()
            } else {
                word.as_bytes()
            }
        });
        Some(Arc::new(Pieces::new(bytes)))
    };
    let insertion = Insertion::new(config, RESERVED, length).unwrap();
    let insertion = insertion.with_pieces(pieces).unwrap();
    match filler {
        Some(filler) => insertion.with_filler(filler),
        None => insertion,
    }
}

fn draw(row: &Sequence) -> String {
    let mut drawn: Vec<String> = row.ids.iter().map(|id| word(*id)).collect();
    if let Some(prefix) = row.prefix {
        drawn.insert(prefix as usize, ">".into());
    }
    drawn.join(" ")
}

/// One picture: the policy, and what becomes of the row.
fn place(text: &str, config: &str) -> String {
    let insertion = insertion(config, 32);
    let mut row = row(text);
    if config.contains("positions") {
        let places = [2, 9, 14];
        let mark = |at: usize| f32::from(u8::from(places.contains(&at)));
        row.marks = (0..row.len()).map(mark).collect();
    }
    // One row; of a mixture, one of each policy, in their order.
    let keys = if config.contains("mix") { 40 } else { 1 };
    let rows: BTreeMap<usize, String> = (0..keys)
        .map(|item| {
            let key = Key::new(3).stream(Stream::Pause).item(item);
            let placed = pause::apply(&insertion, &row, key);
            (placed.part, draw(&placed.sequence))
        })
        .collect();
    let drawn: String = rows.into_values().map(|row| row + "\n").collect();
    format!("`{{ {config} }}`\n\n```text\n{drawn}```\n\n")
}

/// A picture of a target rule: below each id what its position must predict.
fn rule(config: &str) -> String {
    let insertion = insertion(config, 32);
    let row = pause::apply(&insertion, &row(EXAMPLE), Key::new(1)).sequence;
    let pauses = PauseIds::from(RESERVED);
    let targets = pause::target::targets(&row, pauses);
    let weights = pause::target::weights(&row, pauses);
    let mut lines = ["reads    ", "predicts ", "weight   "].map(String::from);
    for ((id, target), weight) in row.ids.iter().zip(targets).zip(weights) {
        let cells = [
            word(*id),
            target.map_or("·".into(), word),
            target.map_or("·".into(), |_| weight.to_string()),
        ];
        let width = cells.iter().map(|cell| cell.chars().count()).max().unwrap();
        for (line, cell) in lines.iter_mut().zip(cells) {
            let padding = " ".repeat(width - cell.chars().count());
            *line += &format!(" {cell}{padding}");
        }
    }
    let lines = lines.map(|line| format!("{}\n", line.trim_end()));
    format!("`{{ {config} }}`\n\n```text\n{}```\n\n", lines.concat())
}

fn pictures() -> String {
    let mut page = format!(
        "## Where pauses stand\n\nEvery word below is one token, `⏸` a pause, `■` the end of a document.\nA row without pauses:\n\n```text\n{}\n```\n\n",
        draw(&row(TEXT))
    );
    for config in [
        "policy = \"none\"",
        "policy = \"random\", fraction = 0.25",
        "policy = \"random\", fraction = 0.25, law = \"distinct-gaps\"",
        "policy = \"random\", fraction = 0.25, law = \"iid-gaps\"",
        "policy = \"random\", fraction = 0.25, law = { runs = { mean = 3 } }",
        "policy = \"prefix\", count = 4",
        "policy = \"stride\", every = 6, count = 2",
        "policy = \"word-ends\"",
        "policy = \"word-ends\", every = 3",
        "policy = \"punctuation\"",
        "policy = \"punctuation\", marks = \".\", side = \"before\", count = 3",
        "policy = \"digits\"",
        "policy = \"regex\", pattern = \"[aeiou]t\\\\b\"",
        "policy = \"score\", k = 3",
        "policy = \"positions\"",
        "policy = \"mix\", of = [{ weight = 1, policy = \"none\" }, { weight = 1, policy = \"stride\", every = 6 }, { weight = 1, policy = \"digits\" }]",
    ] {
        page += &place(TEXT, config);
    }
    page += "A finetuning row, whose prefix ends at `>`; pauses stand after it:\n\n";
    for config in [
        "policy = \"suffix\", count = 3",
        "policy = \"prefix\", count = 3",
        "policy = \"punctuation\"",
    ] {
        page += &place(EXAMPLE, config);
    }
    page += "## Which tokens pauses are\n\n";
    for token in [
        "\"shared\"",
        "{ distinct = 3 }",
        "\"delimited\"",
        "{ filler = \".\" }",
    ] {
        page += &place(
            EXAMPLE,
            &format!("policy = \"suffix\", count = 5, token = {token}"),
        );
    }
    page += "## What is trained at pauses\n\n`·` is a position that is not scored.\n\n";
    for target in [
        "\"skip\"",
        "\"emit\"",
        "\"repeat\"",
        "{ future = 2 }",
        "\"hint\"",
    ] {
        let weight = if target == "\"repeat\"" {
            ", target_weight = 0.5"
        } else {
            ""
        };
        page += &rule(&format!(
            "policy = \"suffix\", count = 3, target = {target}{weight}"
        ));
    }
    page
}

#[test]
fn the_page_shows_what_the_program_does() {
    const BEGIN: &str =
        "<!-- drawn by tests/cli/pictures.rs: UPDATE_EXPECT=1 cargo test pictures -->\n\n";
    const END: &str = "<!-- end -->\n";
    let page = fs::read_text(Path::new(PAGE)).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let drawn = format!("{before}{BEGIN}{}{END}{after}", pictures());
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(Path::new(PAGE), drawn.as_bytes()).unwrap();
    }
    assert!(
        fs::read_text(Path::new(PAGE)).unwrap() == drawn,
        "{PAGE} is out of date: run the test with UPDATE_EXPECT=1"
    );
}
