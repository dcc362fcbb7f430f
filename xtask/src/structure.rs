//! The structure of the sources: no file imports itself by way of others, none is too long, and none
//! uses a word of `words.txt`. Reads `use` declarations and qualified paths; test modules are not looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Result, bail};

use crate::{files, workspace::Workspace};

/// Crates with a library or a program, each a folder of the workspace.
const CRATES: [&str; 5] = [
    "tcp-status",
    "tcp-status-common",
    "tcp-status-ebpf",
    "tcp-status-testkit",
    "xtask",
];

/// The longest source, in lines, tests not counted.
const LONGEST: usize = 560;

/// Words that no source may use, one a line, with what to use instead.
const WORDS: &str = include_str!("../words.txt");

/// Fails with one line for each violation.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut found = Vec::new();
    for name in CRATES {
        let sources = sources(&workspace.root.join(name).join("src"))?;
        for cycle in cycles(&imports(&sources)) {
            found.push(format!("{name}: import cycle of {}", cycle.join(", ")));
        }
        for (module, text) in &sources {
            let file = format!("{name}: {}", module.join("/"));
            let lines = text.lines().count();
            if lines > LONGEST {
                found.push(format!("{file}: {lines} lines, at most {LONGEST}"));
            }
            found.extend(words(text).map(|(word, use_)| format!("{file}: {word}; use {use_}")));
        }
    }
    if !found.is_empty() {
        bail!("{}", found.join("\n"));
    }
    Ok(())
}

/// The path of a module below its crate.
type Module = Vec<String>;

/// Every module of a crate, up to its tests.
fn sources(folder: &Path) -> Result<BTreeMap<Module, String>> {
    let mut sources = BTreeMap::new();
    for path in files::walk(folder)? {
        let relative = path.strip_prefix(folder)?.with_extension("");
        if path.extension().is_some_and(|it| it == "rs") && !relative.starts_with("bin") {
            let text = files::read_text(&path)?;
            let end = text.find("\n#[cfg(test)]\nmod ").unwrap_or(text.len());
            sources.insert(module(&relative), text[..end].to_owned());
        }
    }
    Ok(sources)
}

fn module(path: &Path) -> Module {
    let mut parts: Module = path
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] || parts == ["main"] {
        parts.pop();
    }
    parts
}

/// Which modules each module imports from. What a module re-exports is of the module that defines it.
fn imports(sources: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut exported = BTreeMap::new();
    let mut imported = BTreeMap::<_, Vec<Module>>::new();
    for (module, text) in sources {
        let code = code(text);
        let absolute = |path: &str| absolute(path, module, sources);
        let (declarations, rest) = declarations(&code);
        for (is_public, tree) in declarations {
            for path in expand(&tree) {
                let Some(path) = absolute(&path) else {
                    continue;
                };
                if is_public && let Some(name) = path.last() {
                    exported.insert([&module[..], std::slice::from_ref(name)].concat(), path);
                } else {
                    imported.entry(module.clone()).or_default().push(path);
                }
            }
        }
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let words = rest.split(|c| !is_path(c));
        let qualified =
            words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
        let paths = qualified.filter_map(absolute);
        imported.entry(module.clone()).or_default().extend(paths);
    }
    let owner = |mut path: Module| {
        while let Some(target) = exported.get(&path) {
            if *target == path {
                break;
            }
            path = target.clone();
        }
        while !sources.contains_key(&path) {
            path.pop()?;
        }
        Some(path)
    };
    imported
        .into_iter()
        .map(|(module, paths)| {
            let owners = paths.into_iter().filter_map(owner);
            let owners = owners.filter(|owner| *owner != module).collect();
            (module, owners)
        })
        .collect()
}

/// The trees of `use` declarations, each with whether it is public, and all other code.
fn declarations(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut declarations, mut rest) = (Vec::new(), String::new());
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        let line = line.trim();
        let visible = line
            .strip_prefix("pub")
            .map(|line| match line.split_once(')') {
                Some((scope, line)) if scope.starts_with('(') => line.trim_start(),
                _ => line.trim_start(),
            });
        let Some(tree) = visible.unwrap_or(line).strip_prefix("use ") else {
            rest += line;
            rest.push('\n');
            continue;
        };
        let mut tree = tree.to_owned();
        while !tree.contains(';') {
            let Some(more) = lines.next() else { break };
            tree += more;
        }
        tree.truncate(tree.find(';').unwrap_or(tree.len()));
        declarations.push((visible.is_some(), tree));
    }
    (declarations, rest)
}

/// The paths of a `use` tree.
fn expand(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        return vec![path.trim_end_matches("::self").to_owned()];
    };
    let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
    let (mut depth, mut start, mut paths) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let branches = expand(&inner[start..at]).into_iter();
                let named = branches.filter(|branch| !branch.is_empty());
                paths.extend(named.map(|branch| match branch.as_str() {
                    "self" => tree[..open].trim_end_matches("::").to_owned(),
                    branch => format!("{}{branch}", &tree[..open]),
                }));
                start = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// A path from the root of its crate; none if it leads to another crate.
fn absolute(path: &str, module: &Module, sources: &BTreeMap<Module, String>) -> Option<Module> {
    let parts: Module = path
        .split("::")
        .map(|part| part.trim().to_owned())
        .collect();
    let mut base = module.clone();
    let mut rest = &parts[..];
    match parts.first()?.as_str() {
        "crate" => return Some(parts[1..].to_vec()),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        child => {
            let child = [&module[..], &[child.to_owned()]].concat();
            if !sources.contains_key(&child) {
                return None;
            }
        }
    }
    base.extend_from_slice(rest);
    Some(base)
}

/// Groups of modules that import each other.
fn cycles(imports: &BTreeMap<Module, BTreeSet<Module>>) -> BTreeSet<Vec<String>> {
    let reached = |from: &Module| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(module) = next.pop() {
            for to in imports.get(module).into_iter().flatten() {
                if seen.insert(to) {
                    next.push(to);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<_, _> = imports
        .keys()
        .map(|module| (module, reached(module)))
        .collect();
    let back = |from, to| reach.get(to).is_some_and(|seen| seen.contains(from));
    let groups = reach.iter().filter(|(module, seen)| seen.contains(*module));
    groups
        .map(|(module, seen)| {
            let members = seen.iter().filter(|to| back(module, **to));
            members.map(|member| member.join("/")).collect()
        })
        .collect()
}

/// A source without comments and strings.
fn code(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let raw = rest
            .strip_prefix('r')
            .map(|rest| rest.trim_start_matches('#'));
        rest = if rest.starts_with("//") {
            &rest[rest.find('\n').unwrap_or(rest.len())..]
        } else if let Some(string) = raw.filter(|raw| raw.starts_with('"')) {
            let end = format!("\"{}", "#".repeat(rest.len() - string.len() - 1));
            let length = string[1..].find(&end);
            length.map_or("", |length| &string[1 + length + end.len()..])
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or("", |end| &rest[end + 2..])
        } else if let Some(after) = rest.strip_prefix("'\"'") {
            after
        } else {
            code.push(c);
            &rest[c.len_utf8()..]
        };
    }
    code
}

/// Forbidden words that a source uses, each with what to use instead.
fn words(text: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let used: BTreeSet<_> = code(text)
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .map(str::to_owned)
        .collect();
    let forbidden = WORDS.lines().filter_map(|line| line.split_once('\t'));
    forbidden.filter(move |(word, _)| used.contains(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(sources: &[(&str, &str)]) -> BTreeMap<Module, String> {
        let one = |&(path, text): &(&str, &str)| (module(Path::new(path)), text.to_owned());
        sources.iter().map(one).collect()
    }

    #[test]
    fn a_cycle_is_found_through_a_re_export() {
        let sources = crate_of(&[
            ("lib", "mod a;\nmod b;\npub use a::A;\n"),
            ("a", "use crate::b::{self, B};\n"),
            ("b", "use super::A;\n"),
            ("c", "use crate::{a::A, b};\nuse std::io;\n"),
        ]);
        let cycles: Vec<_> = cycles(&imports(&sources)).into_iter().collect();
        assert_eq!(cycles, [vec!["a".to_owned(), "b".to_owned()]]);
    }

    #[test]
    fn a_tree_is_no_cycle() {
        let sources = crate_of(&[
            ("main", "mod a;\nfn main() { a::run() }\n"),
            ("a/mod", "mod b;\nuse b::B;\n// use crate::c;\n"),
            (
                "a/b",
                "pub(super) struct B;\nuse crate::c::{\n    D,\n    E as _,\n};\n",
            ),
            ("c", "const TEXT: &str = \"use crate::a;\";\n"),
        ]);
        assert!(cycles(&imports(&sources)).is_empty());
        let of_b = &imports(&sources)[&vec!["a".to_owned(), "b".to_owned()]];
        assert!(of_b.contains(&vec!["c".to_owned()]), "{of_b:?}");
    }

    #[test]
    fn forbidden_words_are_whole_words() {
        let word = WORDS.split('\t').next().unwrap();
        assert_eq!(words(&format!("struct {word};")).count(), 1);
        assert_eq!(words(&format!("struct {word}s1;")).count(), 0);
    }
}
