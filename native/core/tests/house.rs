//! The house as the code draws it: no file of a crate uses another that uses it in turn.
#![cfg(not(loom))]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The files that each file uses, by their paths in the crate: `policy/mod.rs` is `policy`.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn modules(folder: &Path, prefix: &str, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("it is a folder of sources") {
        let path = entry.expect("it can be read").path();
        let stem = path.file_stem().expect("it has a name").to_string_lossy();
        let name = match stem.as_ref() {
            // The root is there for users of the crate.
            "lib" => continue,
            "mod" => prefix.trim_end_matches("::").to_string(),
            stem => format!("{prefix}{stem}"),
        };
        if path.is_dir() {
            modules(&path, &format!("{name}::"), found);
        } else {
            found.insert(name, fs::read_to_string(&path).expect("it is text"));
        }
    }
}

/// The code without comments and without what is compiled for tests alone.
fn code(source: &str) -> String {
    let shipped = source.split("#[cfg(all(test").next().unwrap_or_default();
    let lines = shipped.lines().map(|line| line.split("//").next());
    lines.flatten().collect::<Vec<_>>().join(" ")
}

/// Every path of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let (head, group) = match tree.split_once('{') {
        Some((head, rest)) => (head, rest.rsplit_once('}').map(|(group, _)| group)),
        None => (tree, None),
    };
    let path = format!("{prefix}{}", head.trim());
    let Some(group) = group else {
        return paths.push(path);
    };
    let (mut depth, mut start) = (0, 0);
    for (index, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                expand(&path, &group[start..index], paths);
                start = index + 1;
            }
            _ => {}
        }
    }
}

fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        if let Some((_, tree)) = statement.split_once("use ") {
            expand("", tree, &mut paths);
        }
        // Who declares a module uses it.
        if let Some((_, module)) = statement.rsplit_once("mod ") {
            paths.push(format!("self::{module}"));
        }
    }
    // Those that are written out where they are used.
    for start in ["crate::", "super::", "self::"] {
        for (index, _) in code.match_indices(start) {
            let is_path = |it: &char| it.is_alphanumeric() || *it == '_' || *it == ':';
            paths.push(code[index..].chars().take_while(is_path).collect());
        }
    }
    paths
}

/// The module that a path from this one leads into, as far as it is a file.
fn target<'a>(from: &str, path: &str, files: &'a BTreeMap<String, String>) -> Option<&'a str> {
    let mut place: Vec<&str> = from.split("::").collect();
    let mut steps = path.split("::").map(str::trim).peekable();
    match steps.next()? {
        "crate" => place.clear(),
        "self" => {}
        "super" => drop(place.pop()),
        _ => return None,
    }
    while steps.next_if_eq(&"super").is_some() {
        place.pop();
    }
    place.extend(steps);
    while !place.is_empty() {
        if let Some((name, _)) = files.get_key_value(&place.join("::")) {
            return Some(name);
        }
        place.pop();
    }
    None
}

fn uses(crate_root: &Path) -> Uses {
    let mut files = BTreeMap::new();
    modules(crate_root, "", &mut files);
    let uses_of = |name: &String, source: &String| {
        let code = code(source);
        let targets = paths(&code).into_iter();
        let targets = targets.filter_map(|path| target(name, &path, &files));
        // A file's own parts, and its own tests.
        let others = targets.filter(|target| target != name);
        others.map(str::to_string).collect()
    };
    let named = files
        .iter()
        .map(|(name, source)| (name.clone(), uses_of(name, source)));
    named.collect()
}

/// A circle, if there is one: files of which each uses the next, and the last the first.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    let mut left = uses.clone();
    // Takes away whoever uses nobody who is left.
    loop {
        let names: BTreeSet<String> = left.keys().cloned().collect();
        let before = names.len();
        left.retain(|_, used| used.iter().any(|it| names.contains(it)));
        if left.len() == before {
            break;
        }
    }
    let mut way = vec![left.keys().next()?.clone()];
    loop {
        let used = &left[way.last()?];
        let next = used.iter().find(|it| left.contains_key(*it))?;
        if let Some(index) = way.iter().position(|it| it == next) {
            return Some(way.split_off(index));
        }
        way.push(next.clone());
    }
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let native = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["core", "nif"] {
        let uses = uses(&native.join(name).join("src"));
        assert!(uses.len() > 10, "{name} was read");
        assert_eq!(circle(&uses), None, "{name}");
    }
}

#[test]
fn a_circle_is_found_and_what_is_none_is_not() {
    let uses = |pairs: &[(&str, &[&str])]| -> Uses {
        let owned = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        let pairs = pairs.iter();
        pairs
            .map(|(name, used)| (name.to_string(), owned(used)))
            .collect()
    };
    assert_eq!(
        circle(&uses(&[("a", &["b", "c"]), ("b", &["c"]), ("c", &[])])),
        None
    );
    let found = circle(&uses(&[
        ("a", &["b"]),
        ("b", &["c"]),
        ("c", &["b"]),
        ("d", &[]),
    ]));
    assert_eq!(found, Some(vec!["b".to_string(), "c".to_string()]));

    let mut paths = Vec::new();
    expand("", "crate::a::{b, c::{d, e}}", &mut paths);
    assert_eq!(paths, ["crate::a::b", "crate::a::c::d", "crate::a::c::e"]);
}
