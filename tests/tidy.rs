//! Rules of the house that no compiler checks: layers, sizes, recipes that work.
//!
//! Each rule is a function from text to complaints, and is itself tested on text
//! that breaks it.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "in a test, a panic is a failure"
)]

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use pausedata::fs;
use pausedata::recipe::{Recipe, schema};
use source::{code_of, functions, mentions};

/// Longer files tell two stories: split them by what they are about.
const FILE_LINES_MAX: usize = 600;
/// A function is read on one screen.
const FUNCTION_LINES_MAX: usize = 70;

/// Modules that meet only above both of them.
const STRANGERS: [(&str, &str); 2] = [("model", "loader"), ("loader", "model")];

/// The core takes slices and returns values: no paths, threads, clocks or tensors.
const CORE: [&str; 6] = ["pause", "pack", "row", "sequence", "batch", "permutation"];
const NOT_IN_CORE: [&str; 7] = [
    "std::fs",
    "std::path",
    "std::thread",
    "std::time",
    "crate::fs",
    "rayon::",
    "burn::",
];

#[test]
fn modules_name_nothing_above_them() {
    let layers = layers(&read(Path::new("src/lib.rs")));
    assert!(
        4 < layers.len(),
        "src/lib.rs lists the layers, an empty line between two of them"
    );
    let mut named = BTreeMap::new();
    let mut complaints = Vec::new();
    for (path, text) in library() {
        let module = module_of(&path);
        let mentions = mentions(&code_of(&text));
        complaints.extend(check_layers(&layers, &path, &module, &mentions));
        named
            .entry(module)
            .or_insert_with(BTreeSet::new)
            .extend(mentions);
    }
    complaints.extend(check_cycles(&layers, &named));
    report(&complaints);
}

#[test]
fn the_core_is_pure() {
    let files = library().into_iter();
    report(
        &files
            .flat_map(|(path, text)| check_core(&path, &text))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn files_and_functions_are_short_and_no_test_is_switched_off() {
    let mut complaints = Vec::new();
    for root in ["src", "tests", "benches", "examples"] {
        for path in files(Path::new(root), "rs") {
            let text = read(&path);
            complaints.extend(check_length(&path, &text));
            complaints.extend(check_functions(&path, &text));
            complaints.extend(check_ignored(&path, &text));
        }
    }
    report(&complaints);
}

#[test]
fn every_recipe_is_read_and_fits_the_schema() {
    let schema = serde_json::from_str(&schema::text().unwrap()).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let recipes = files(Path::new("pipelines"), "toml");
    assert!(
        3 <= recipes.len(),
        "pipelines/ holds {} recipes",
        recipes.len()
    );
    for path in recipes {
        let text = read(&path);
        let first = text.lines().next();
        assert_eq!(
            first,
            Some("#:schema ../schemas/recipe.schema.json"),
            "{}: begin with the line that tells editors the schema",
            path.display()
        );
        Recipe::read(&path, &[]).unwrap_or_else(|error| panic!("{error}"));
        let value: serde_json::Value = toml::from_str(&text).unwrap();
        if let Err(error) = validator.validate(&value) {
            panic!("{}: {error} at {}", path.display(), error.instance_path());
        }
    }
}

#[test]
fn the_schema_on_disk_is_that_of_the_code() {
    let path = Path::new("schemas/recipe.schema.json");
    let schema = schema::text().unwrap();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, schema.as_bytes()).unwrap();
    }
    assert!(
        fs::read_text(path).unwrap_or_default() == schema,
        "{} is out of date: run `pausedata schema > {0}` or the tests with UPDATE_EXPECT=1",
        path.display()
    );
}

/// The layers of src/lib.rs from the top down: modules between empty lines are one.
fn layers(lib: &str) -> Vec<BTreeSet<String>> {
    let mut layers = vec![BTreeSet::new()];
    for line in lib.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub mod ") {
            let name = name.trim_end_matches(';').to_string();
            layers.last_mut().unwrap().insert(name);
        } else if line.is_empty() && !layers.last().unwrap().is_empty() {
            layers.push(BTreeSet::new());
        }
    }
    layers.retain(|layer| !layer.is_empty());
    layers
}

fn rank(layers: &[BTreeSet<String>], module: &str) -> Option<usize> {
    layers.iter().position(|layer| layer.contains(module))
}

fn check_layers(
    layers: &[BTreeSet<String>],
    path: &Path,
    module: &str,
    mentions: &BTreeSet<String>,
) -> Vec<String> {
    let path = path.display();
    let Some(own) = rank(layers, module) else {
        return vec![format!(
            "{path}: src/lib.rs does not list `{module}`: add it at its layer"
        )];
    };
    let complaint = |other: &String| {
        let above = rank(layers, other).is_some_and(|rank| rank < own);
        if above {
            let advice = "move what is needed down, or the caller up";
            return Some(format!(
                "{path}: `{module}` names `{other}`, which lies above it: {advice}"
            ));
        }
        let strangers = STRANGERS.contains(&(module, other.as_str()));
        let advice = "let a module above both join them";
        strangers.then(|| format!("{path}: `{module}` must not know `{other}`: {advice}"))
    };
    mentions.iter().filter_map(complaint).collect()
}

/// Modules of one layer may name one another, but not in a circle of two.
fn check_cycles(
    layers: &[BTreeSet<String>],
    named: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut complaints = Vec::new();
    for (module, others) in named {
        for other in others
            .range(module.clone()..)
            .filter(|other| *other != module)
        {
            let same = rank(layers, module) == rank(layers, other);
            let back = named.get(other).is_some_and(|names| names.contains(module));
            if same && back {
                let advice = "move what both need below them";
                complaints.push(format!(
                    "`{module}` and `{other}` name each other: {advice}"
                ));
            }
        }
    }
    complaints
}

fn check_core(path: &Path, text: &str) -> Vec<String> {
    if !CORE.contains(&module_of(path).as_str()) {
        return Vec::new();
    }
    let code = code_of(text);
    let found = NOT_IN_CORE.iter().filter(|name| code.contains(**name));
    let advice = "the core takes slices and returns values; do this in its caller";
    found
        .map(|name| format!("{}: `{name}`: {advice}", path.display()))
        .collect()
}

fn check_length(path: &Path, text: &str) -> Option<String> {
    let lines = text.lines().count();
    let advice = format!("split it by subject, {FILE_LINES_MAX} are the most");
    (FILE_LINES_MAX < lines).then(|| format!("{}: {lines} lines: {advice}", path.display()))
}

fn check_functions(path: &Path, text: &str) -> Vec<String> {
    let long = functions(&code_of(text)).into_iter();
    let long = long.filter(|function| FUNCTION_LINES_MAX < function.lines);
    long.map(|function| {
        format!(
            "{}:{}: `{}` has {} lines: name its parts, {FUNCTION_LINES_MAX} are the most",
            path.display(),
            function.line,
            function.name,
            function.lines
        )
    })
    .collect()
}

fn check_ignored(path: &Path, text: &str) -> Vec<String> {
    let code = code_of(text);
    let lines = code.lines().enumerate();
    let ignored = lines.filter(|(_, line)| line.trim_start().starts_with("#[ignore"));
    let advice = "a test that does not run proves nothing: make it fast or remove it";
    ignored
        .map(|(number, _)| format!("{}:{}: {advice}", path.display(), number + 1))
        .collect()
}

/// The files of the library: everything in src/ but the program.
fn library() -> Vec<(PathBuf, String)> {
    let files = files(Path::new("src"), "rs").into_iter();
    let program = |path: &PathBuf| {
        path.starts_with("src/cli")
            || path == Path::new("src/main.rs")
            || path == Path::new("src/lib.rs")
    };
    files
        .filter(|path| !program(path))
        .map(|path| (path.clone(), read(&path)))
        .collect()
}

/// The top module of a file: `pause` for src/pause/place.rs and src/pause.rs.
fn module_of(path: &Path) -> String {
    let first = path
        .strip_prefix("src")
        .ok()
        .and_then(|path| path.iter().next());
    let first = first.unwrap_or_default().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::list(folder).unwrap() {
        if entry.is_dir() {
            found.extend(files(&entry, ending));
        } else if entry
            .extension()
            .is_some_and(|extension| extension == ending)
        {
            found.push(entry);
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_text(path).unwrap()
}

fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<BTreeSet<String>> {
        layers(
            "//! Doc.\n\npub mod run;\n\n#[cfg(x)]\npub mod model;\npub mod loader;\n\npub mod pause;\npub mod token;\n",
        )
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn layers_are_read_from_the_list_of_modules() {
        let expected = [
            names(&["run"]),
            names(&["loader", "model"]),
            names(&["pause", "token"]),
        ];
        assert_eq!(example(), expected);
    }

    #[test]
    fn a_name_from_above_is_found() {
        let check = |module: &str, mentioned: &[&str]| {
            check_layers(&example(), Path::new("src/x.rs"), module, &names(mentioned)).len()
        };
        assert_eq!(check("run", &["model", "token"]), 0);
        assert_eq!(check("pause", &["token", "Outside"]), 0);
        assert_eq!(check("pause", &["token", "model", "run"]), 2);
        assert_eq!(check("model", &["loader"]), 1);
        assert_eq!(check("stray", &[]), 1);
    }

    #[test]
    fn a_circle_in_a_layer_is_found() {
        let check = |pause: &[&str], token: &[&str]| {
            let named = [("pause", pause), ("token", token)];
            let named = named.map(|(module, others)| (module.to_string(), names(others)));
            check_cycles(&example(), &named.into()).len()
        };
        assert_eq!(check(&["token", "pause"], &["token"]), 0);
        assert_eq!(check(&["token"], &["pause"]), 1);
    }

    #[test]
    fn what_is_long_or_switched_off_or_impure_is_found() {
        let path = Path::new("src/pause/x.rs");
        let lines = |n: usize| "a\n".repeat(n);
        assert!(check_length(path, &lines(600)).is_none());
        assert!(check_length(path, &lines(601)).is_some());
        let function = |n: usize| format!("fn f() {{\n{}}}\n", lines(n));
        assert_eq!(check_functions(path, &function(68)).len(), 0);
        assert_eq!(check_functions(path, &function(69)).len(), 1);
        assert_eq!(
            check_ignored(path, "#[test]\n    #[ignore = \"slow\"]\nfn f() {}").len(),
            1
        );
        assert_eq!(check_ignored(path, "// #[ignore]\nfn f() {}").len(), 0);
        assert_eq!(check_core(path, "use std::path::Path;").len(), 1);
        assert_eq!(check_core(path, "// std::path\nuse crate::token;").len(), 0);
        assert_eq!(
            check_core(Path::new("src/fs.rs"), "use std::path::Path;").len(),
            0
        );
    }
}
