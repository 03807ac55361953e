use std::path::Path;

use super::*;
use crate::progress::Silent;
use crate::stats;

/// The page of a dataset that lies in the repository.
fn golden(name: &str) -> (Stats, String) {
    let folder = Path::new("data/golden").join(name);
    let dataset = Dataset::open(&folder).unwrap();
    let stats = stats::of(&dataset, &Silent).unwrap();
    let page = super::dataset(&dataset, &stats, 3).unwrap();
    (stats, page)
}

/// Complains where elements do not close in order, or an attribute stands twice.
fn check_well_formed(page: &str) {
    const VOID: [&str; 2] = ["meta", "br"];
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    let mut open: Vec<&str> = Vec::new();
    for piece in body.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect(piece);
        assert!(!text.contains('>'), "unescaped: {text}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "near {text}");
            continue;
        }
        let (name, rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut quoted = rest.split('"');
        let mut names = std::collections::BTreeSet::new();
        while let Some(attribute) = quoted.next().filter(|attribute| !attribute.is_empty()) {
            let attribute = attribute.trim().strip_suffix('=').expect(attribute);
            assert!(names.insert(attribute), "{attribute} twice in <{tag}>");
            assert!(!attribute.starts_with("on"), "a script in <{tag}>");
            quoted.next().expect(tag);
        }
        if !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn pages_are_well_formed_and_need_nothing_else() {
    for name in ["v1-pretrain-u32", "v1-finetune-u16"] {
        let (_, page) = golden(name);
        let start = page.find("<style>").unwrap();
        let end = page.find("</style>").unwrap();
        let (style, rest) = (
            &page[start..end],
            [&page[..start], "<style>", &page[end..]].concat(),
        );
        check_well_formed(&rest);
        for reference in ["url(", "@import", "@font-face", "<"] {
            let found = style.matches(reference).count();
            assert_eq!(found, usize::from(reference == "<"), "{reference}");
        }
        for reference in [
            "http:", "https:", "src=", "href=", "<script", "<link", "<img", "<iframe",
        ] {
            assert!(
                !rest.contains(reference),
                "{reference} in the page of {name}"
            );
        }
        let n_charts = page.matches("<svg").count();
        assert!(2 <= n_charts);
        assert_eq!(page.matches("role=\"img\" aria-label=\"").count(), n_charts);
        assert!(n_charts <= page.matches("<summary>Numbers</summary>").count());
    }
}

#[test]
fn a_page_is_the_same_every_time() {
    let threads = |n| {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build()
            .unwrap()
    };
    let page = threads(1).install(|| golden("v1-pretrain-u32").1);
    assert!(threads(4).install(|| golden("v1-pretrain-u32").1) == page);
}

#[test]
fn the_page_shows_the_numbers_of_the_statistics() {
    for name in ["v1-pretrain-u32", "v1-finetune-u16"] {
        let (stats, page) = golden(name);
        let shows = |text: String| assert!(page.contains(&text), "{name} does not show {text}");
        let cell = |count: u64| format!("<td class=\"n\">{}</td>", crate::units::grouped(count));
        shows(stats.dataset.to_string());
        shows(cell(stats.ledger.kept));
        for split in stats.splits.values() {
            let totals = &split.totals;
            let counts = [
                totals.rows,
                totals.documents,
                totals.real,
                totals.pauses,
                totals.scored,
                totals.text_bytes,
            ];
            counts.into_iter().map(cell).for_each(shows);
            let bins = [&split.lengths, &split.document_bytes, &split.pauses_a_row];
            let bins = bins.into_iter().flatten();
            bins.map(|bin| cell(bin.count)).for_each(shows);
            split
                .along
                .iter()
                .filter(|at| 0 < at.ids)
                .map(|at| cell(at.pauses))
                .for_each(shows);
        }
    }
}

#[test]
fn titles_are_escaped() {
    let page = document("</title><script>", &html! { p { "&" } }).into_string();
    assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
    assert!(page.ends_with("<body><p>&amp;</p></body></html>"));
}
