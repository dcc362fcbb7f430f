//! `cargo xtask lint`: formatting, clippy for the host's crates and for the BPF target, and the
//! structure of the sources. What cannot run here is skipped with its reason.
//!
//! The structure is read from `use` declarations and qualified paths; test modules are not read.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::{
    files, object,
    test_totals::{Outcome, TestTotals},
    toolchain::{Missing, Toolchain},
    workspace::Workspace,
};

pub(crate) fn run(workspace: &Workspace) -> ExitCode {
    let mut totals = TestTotals::default();
    check(workspace, &Toolchain::find(workspace), &mut totals);
    totals.finish()
}

/// Adds the outcome of every lint to `totals`.
pub(crate) fn check(
    workspace: &Workspace,
    toolchain: &Result<Toolchain, Missing>,
    totals: &mut TestTotals,
) {
    for (command, component, args) in [
        ("fmt", "rustfmt", "--all --check"),
        ("clippy", "clippy", "--locked --all-targets -- -D warnings"),
    ] {
        totals.check(command, || {
            let step = workspace.cargo(command);
            if step.clone().with("--version").try_read().is_none() {
                return Ok(Outcome::Skipped(format!(
                    "no {component}; install it: rustup component add {component}"
                )));
            }
            step.with(args).run().map(Outcome::from)
        });
    }
    totals.check("structure", || check_structure(workspace));
    totals.check("clippy for the BPF target", || match toolchain {
        Ok(toolchain) if object::lint(workspace, toolchain)? => Ok(Outcome::from(())),
        Ok(toolchain) => Ok(Outcome::Skipped(format!(
            "no clippy beside {}; install it on Debian: apt-get install rust-web-clippy",
            toolchain.compiler.rustc.display()
        ))),
        Err(missing) => Ok(Outcome::Skipped(missing.to_string())),
    });
}

/// Crates with a library or a program, each a folder of the workspace.
const CRATES: &str = "tcp-status tcp-status-common tcp-status-ebpf tcp-status-testkit xtask";

/// The longest source, in lines, tests not counted.
const LONGEST: usize = 560;

/// Words that no source may use, one a line, with what to use instead.
const WORDS: &str = include_str!("../words.txt");

/// No file imports itself by way of others, none is too long, and none uses a word of `words.txt`.
/// Fails with one line for each violation.
fn check_structure(workspace: &Workspace) -> Result<()> {
    let mut found = Vec::new();
    for name in CRATES.split(' ') {
        let mut sources = Sources::new();
        for (module, text) in read_sources(&workspace.root.join(name).join("src"))? {
            let file = format!("{name}: {}", module.join("/"));
            let tokens = tokens(&text).with_context(|| format!("cannot read {file}"))?;
            let lines = text.lines().count();
            if lines > LONGEST {
                found.push(format!("{file}: {lines} lines, at most {LONGEST}"));
            }
            found.extend(words(&tokens).map(|(word, use_)| format!("{file}: {word}; use {use_}")));
            sources.insert(module, tokens);
        }
        for cycle in cycles(&imports(&sources)) {
            found.push(format!("{name}: import cycle of {}", cycle.join(", ")));
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

/// The path of a module below its crate.
type Module = Vec<String>;

/// The tokens of every module of a crate, up to its tests: neither comments nor literals.
type Sources = BTreeMap<Module, Vec<String>>;

fn read_sources(folder: &Path) -> Result<BTreeMap<Module, String>> {
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
    let parts = path.iter().map(|part| part.to_string_lossy().into_owned());
    let mut parts: Module = parts.collect();
    if parts.last().is_some_and(|last| last == "mod") || parts == ["lib"] || parts == ["main"] {
        parts.pop();
    }
    parts
}

fn tokens(text: &str) -> Result<Vec<String>> {
    fn append(stream: TokenStream, tokens: &mut Vec<String>) {
        for tree in stream {
            match tree {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        Delimiter::Brace => ("{", "}"),
                        _ => ("(", ")"),
                    };
                    tokens.push(open.to_owned());
                    append(group.stream(), tokens);
                    tokens.push(close.to_owned());
                }
                TokenTree::Literal(_) => {}
                other => tokens.push(other.to_string()),
            }
        }
    }
    let mut tokens = Vec::new();
    let stream = text.parse().map_err(|error| anyhow!("{error}"))?;
    append(stream, &mut tokens);
    Ok(tokens)
}

/// Which modules each module imports from. What a module re-exports is of the module that defines it.
fn imports(sources: &Sources) -> BTreeMap<Module, BTreeSet<Module>> {
    let mut exported = BTreeMap::new();
    let mut imported = BTreeMap::<_, Vec<Module>>::new();
    for (module, tokens) in sources {
        let of_module = imported.entry(module.clone()).or_default();
        for (is_public, path) in paths(tokens) {
            let Some(path) = absolute(&path, module, sources) else {
                continue;
            };
            match path.last() {
                Some(name) if is_public => {
                    exported.insert([&module[..], std::slice::from_ref(name)].concat(), path);
                }
                _ => of_module.push(path),
            }
        }
    }
    let owner = |mut path: Module| {
        while let Some(target) = exported.get(&path).filter(|target| **target != path) {
            path = target.clone();
        }
        while !sources.contains_key(&path) {
            path.pop()?;
        }
        Some(path)
    };
    let owners = |(module, paths): (Module, Vec<Module>)| {
        let owners = paths.into_iter().filter_map(owner);
        let owners = owners.filter(|owner| *owner != module).collect();
        (module, owners)
    };
    imported.into_iter().map(owners).collect()
}

/// The paths of `use` declarations, each with whether it is public, and qualified paths.
fn paths(tokens: &[String]) -> Vec<(bool, Module)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let rest = &tokens[at..];
        let length = match tokens[at].as_str() {
            "use" => {
                let end = rest.iter().position(|token| token == ";");
                let before = tokens[..at].iter().rev().map(String::as_str);
                let before: Vec<_> = before.take(4).collect();
                let is_public = before.first() == Some(&"pub") || before.get(3) == Some(&"pub");
                let end = end.unwrap_or(rest.len());
                found.extend(
                    expand(&rest[1..end])
                        .into_iter()
                        .map(|path| (is_public, path)),
                );
                end
            }
            "crate" | "super" => {
                let is_part = |token: &&String| {
                    *token == ":" || token.starts_with(|c: char| c.is_alphabetic() || c == '_')
                };
                let length = rest.iter().take_while(is_part).count();
                let path = rest[..length].iter().filter(|token| *token != ":");
                found.extend(
                    (rest.get(1).is_some_and(|next| next == ":"))
                        .then(|| (false, path.cloned().collect())),
                );
                length
            }
            _ => 1,
        };
        at += length;
    }
    found
}

/// The paths of a `use` tree.
fn expand(tree: &[String]) -> Vec<Module> {
    let (mut paths, mut path, mut bases) = (Vec::new(), Module::new(), vec![0]);
    let (mut is_named, mut is_alias) = (false, false);
    for token in tree.iter().map(String::as_str).chain([","]) {
        match token {
            "{" => {
                bases.push(path.len());
                is_named = false;
            }
            "," | "}" => {
                if is_named {
                    paths.push(path.clone());
                }
                path.truncate(*bases.last().unwrap_or(&0));
                (is_named, is_alias) = (false, false);
                if token == "}" {
                    bases.pop();
                }
            }
            "as" => is_alias = true,
            _ if is_alias || token == ":" => {}
            "self" if !path.is_empty() => is_named = true,
            _ => {
                path.push(token.to_owned());
                is_named = true;
            }
        }
    }
    paths
}

/// A path from the root of its crate; none if it leads to another crate.
fn absolute(path: &Module, module: &Module, sources: &Sources) -> Option<Module> {
    let (mut base, mut rest) = (module.clone(), &path[..]);
    match path.first()?.as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        child => {
            let child = [&module[..], &[child.to_owned()]].concat();
            sources.get(&child)?;
        }
    }
    Some([&base[..], rest].concat())
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

/// Forbidden words among the tokens of a source, each with what to use instead.
fn words(tokens: &[String]) -> impl Iterator<Item = (&'static str, &'static str)> {
    let forbidden = WORDS.lines().filter_map(|line| line.split_once('\t'));
    forbidden.filter(|(word, _)| tokens.iter().any(|token| token == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crate_of(sources: &[(&str, &str)]) -> Sources {
        let one = |&(path, text): &(&str, &str)| (module(Path::new(path)), tokens(text).unwrap());
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
        assert_eq!(
            words(&tokens(&format!("struct {word};")).unwrap()).count(),
            1
        );
        assert_eq!(
            words(&tokens(&format!("struct {word}s1; // {word}")).unwrap()).count(),
            0
        );
    }
}
