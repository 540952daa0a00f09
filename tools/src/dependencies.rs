//! Dependencies that a manifest declares and no source uses.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{Dependency, DependencyKind, MetadataCommand, Package};

use crate::source::{self, Line, has_word};
use crate::workspace::Workspace;

/// Dependencies of the workspace's packages that none of a package's sources names, and those of the workspace that no
/// package has, as `manifest: what`. Manifests and sources are read; the network is not asked.
///
/// # Errors
/// Fails when cargo does not read the manifests, or a file cannot be read.
pub fn judge(workspace: &Workspace) -> Result<Vec<String>> {
    let options = ["--offline", "--locked"].map(String::from).to_vec();
    let mut command = MetadataCommand::new();
    let metadata = command.current_dir(&workspace.root).no_deps().other_options(options).exec();
    let packages = metadata.context("cargo does not describe the workspace")?.packages;
    let folders: Vec<&Path> = packages.iter().filter_map(folder).collect();
    let mut found = Vec::new();
    for package in &packages {
        let Some(folder) = folder(package) else { continue };
        let inner = |file: &Path| {
            folders.iter().any(|other| other.starts_with(folder) && *other != folder && file.starts_with(other))
        };
        let mut sources = Sources::default();
        for file in source::files(folder, &[".rs"])?.iter().filter(|file| !inner(file)) {
            let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            sources.add(file.strip_prefix(folder).unwrap_or(file), &text);
        }
        let manifest = package.manifest_path.strip_prefix(&workspace.root).unwrap_or(&package.manifest_path);
        let unused = package.dependencies.iter().filter(|dependency| !sources.name(dependency));
        found.extend(unused.map(|dependency| format!("{manifest}: nothing uses the dependency `{}`", dependency.name)));
    }
    let used: BTreeSet<&str> = packages.iter().flat_map(|p| &p.dependencies).map(|d| d.name.as_str()).collect();
    let root = workspace.root.join("Cargo.toml");
    let manifest = std::fs::read_to_string(&root).with_context(|| format!("cannot read {}", root.display()))?;
    let unused = of_workspace(&manifest).filter(|name| !used.contains(name));
    found.extend(unused.map(|name| format!("Cargo.toml: no package has the dependency `{name}`")));
    Ok(found)
}

fn folder(package: &Package) -> Option<&Path> {
    package.manifest_path.parent().map(|folder| folder.as_std_path())
}

/// The names in the manifest's `[workspace.dependencies]`.
fn of_workspace(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[workspace.dependencies]").skip(1);
    lines.take_while(|line| !line.starts_with('[')).filter_map(|line| Some(line.split_once(['=', '.'])?.0.trim()))
}

/// The code of a package: what it is built of, and what tests and examples add.
#[derive(Debug, Default)]
struct Sources {
    product: Vec<Line>,
    tests: Vec<Line>,
}

impl Sources {
    /// Adds a file of the package.
    fn add(&mut self, path: &Path, text: &str) {
        let is_test = path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "tests.rs");
        let is_product = path.starts_with("src") && !is_test || path == Path::new("build.rs");
        for line in source::lines(text) {
            if is_product && !line.is_test { self.product.push(line) } else { self.tests.push(line) }
        }
    }

    /// Whether the code that a dependency is declared for names it.
    fn name(&self, dependency: &Dependency) -> bool {
        let crate_name = dependency.rename.as_ref().unwrap_or(&dependency.name).replace('-', "_");
        let lines = if dependency.kind == DependencyKind::Development { &self.tests } else { &self.product };
        lines.iter().any(|line| has_word(&line.code, &crate_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &str, kind: &str) -> Dependency {
        let text = format!(
            r#"{{"name":"{name}","req":"*","kind":{kind},"optional":false,"uses_default_features":true,"features":[],
            "target":null,"rename":null,"registry":null,"source":null}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_dependency_is_used_where_the_code_names_it() {
        let mut sources = Sources::default();
        sources.add(Path::new("src/lib.rs"), "use one_two::X; // three\n#[cfg(test)]\nmod tests { use four::Y; }\n");
        sources.add(Path::new("tests/a.rs"), "fn a() { five::b() }\n");
        sources.add(Path::new("src/tests/b.rs"), "use six;\n");
        let is_used = |name, kind| sources.name(&dependency(name, kind));
        assert!(is_used("one-two", "null"));
        assert!(!is_used("three", "null"), "a comment is no use");
        assert!(!is_used("four", "null"), "a dependency of tests is declared as one");
        assert!(is_used("four", "\"dev\"") && is_used("five", "\"dev\"") && is_used("six", "\"dev\""));
        assert!(!is_used("one-two", "\"dev\""));
    }

    #[test]
    fn the_workspace_s_names_are_read() {
        let manifest =
            "[workspace]\na = 1\n[workspace.dependencies]\nb = \"1\"\nc-d = { path = \"c\" }\n\n[x]\ne = 2\n";
        assert_eq!(of_workspace(manifest).collect::<Vec<_>>(), ["b", "c-d"]);
    }
}
