//! Reading Rust source by lines: what is code, comment, blank, test, unsafe. For `loc` and the house rules.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What a line holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing but space.
    Blank,
    /// Nothing but a comment.
    Comment,
    /// Code.
    Code,
}

/// A line of a source file.
#[derive(Clone, Debug)]
pub struct Line {
    /// What it holds.
    pub kind: Kind,
    /// Its code: comments and the insides of strings are spaces.
    pub code: String,
    /// Its comments: all else is gone.
    pub comment: String,
    /// Inside an item marked `#[cfg(test)]`.
    pub is_test: bool,
    /// Part of an unsafe block, an unsafe item's signature, or assembly.
    pub is_unsafe: bool,
}

/// Parts a source text into lines.
#[must_use]
pub fn lines(text: &str) -> Vec<Line> {
    let mut scanner = Scanner::default();
    let mut lines: Vec<Line> = text.lines().map(|line| scanner.line(line)).collect();
    mark(&mut lines, &["#[cfg(test)]"], |line| line.is_test = true);
    mark(&mut lines, &["unsafe {", "global_asm!", "naked_asm!"], |line| line.is_unsafe = true);
    for line in &mut lines {
        line.is_unsafe |= has_word(&line.code, "unsafe");
    }
    lines
}

/// Whether a word stands in a line of code by itself.
#[must_use]
pub fn has_word(code: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code.get(..at).and_then(|s| s.chars().next_back());
        let after = code.get(at + word.len()..).and_then(|s| s.chars().next());
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

#[derive(Default)]
enum Inside {
    #[default]
    Code,
    /// A block comment, this deep.
    Comment(u32),
    /// A string, with this many `#` at its ends when raw.
    Text(Option<usize>),
}

#[derive(Default)]
struct Scanner {
    inside: Inside,
}

impl Scanner {
    fn line(&mut self, text: &str) -> Line {
        let (mut code, mut comment) = (String::new(), String::new());
        let mut rest = text;
        let starts_in_text = matches!(self.inside, Inside::Text(_));
        while !rest.is_empty() {
            let taken = match self.inside {
                Inside::Code => self.code(rest, &mut code, &mut comment),
                Inside::Comment(depth) => {
                    let (taken, depth) = match rest {
                        r if r.starts_with("*/") => (2, depth - 1),
                        r if r.starts_with("/*") => (2, depth + 1),
                        r => (r.chars().next().map_or(1, char::len_utf8), depth),
                    };
                    comment.push_str(rest.get(..taken).unwrap_or_default());
                    self.inside = if depth == 0 { Inside::Code } else { Inside::Comment(depth) };
                    taken
                }
                Inside::Text(hashes) => self.text(rest, hashes, &mut code),
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        let kind = if starts_in_text || !code.trim().is_empty() {
            Kind::Code
        } else if !comment.trim().is_empty() {
            Kind::Comment
        } else {
            Kind::Blank
        };
        Line { kind, code, comment, is_test: false, is_unsafe: false }
    }

    /// Takes the next piece of code and returns its length in bytes.
    fn code(&mut self, rest: &str, code: &mut String, comment: &mut String) -> usize {
        let after_word = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        if rest.starts_with("//") {
            comment.push_str(rest);
            return rest.len();
        }
        if rest.starts_with("/*") {
            self.inside = Inside::Comment(1);
            comment.push_str("/*");
            return 2;
        }
        if !after_word && let Some((hashes, taken)) = raw_string(rest) {
            self.inside = Inside::Text(Some(hashes));
            code.push('"');
            return taken;
        }
        if rest.starts_with('"') {
            self.inside = Inside::Text(None);
            code.push('"');
            return 1;
        }
        if let Some(taken) = character(rest) {
            code.push_str("' '");
            return taken;
        }
        let next = rest.chars().next().unwrap_or(' ');
        code.push(next);
        next.len_utf8()
    }

    fn text(&mut self, rest: &str, hashes: Option<usize>, code: &mut String) -> usize {
        let end = format!("\"{}", "#".repeat(hashes.unwrap_or(0)));
        if rest.starts_with(&end) {
            self.inside = Inside::Code;
            code.push('"');
            return end.len();
        }
        code.push(' ');
        let escaped = hashes.is_none() && rest.starts_with('\\');
        rest.chars().take(if escaped { 2 } else { 1 }).map(char::len_utf8).sum()
    }
}

/// The number of `#` and the length of a raw string's beginning.
fn raw_string(rest: &str) -> Option<(usize, usize)> {
    let after = ["br", "cr", "r"].iter().find_map(|prefix| rest.strip_prefix(prefix))?;
    let hashes = after.bytes().take_while(|&b| b == b'#').count();
    after.get(hashes..)?.starts_with('"').then(|| (hashes, rest.len() - after.len() + hashes + 1))
}

/// The length of a character literal, where there is one and not a lifetime.
fn character(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    if let Some(escape) = body.strip_prefix('\\') {
        // The escaped character may itself be a quote.
        let skip = escape.chars().next()?.len_utf8();
        return Some(2 + skip + escape.get(skip..)?.find('\'')? + 1);
    }
    let first = body.chars().next()?;
    body.get(first.len_utf8()..)?.starts_with('\'').then(|| first.len_utf8() + 2)
}

/// Marks the lines from each opening word to the end of the bracketed block that follows it.
fn mark(lines: &mut [Line], openings: &[&str], set: impl Fn(&mut Line)) {
    let mut depth: Option<i32> = None;
    for line in lines {
        let code = line.code.clone();
        let begin = match depth {
            Some(_) => 0,
            None => match openings.iter().filter_map(|o| code.find(o)).min() {
                Some(at) => at,
                None => continue,
            },
        };
        set(line);
        let mut open = depth.unwrap_or(0);
        let mut ended = false;
        // The brackets of an attribute are no block.
        let piece = code.get(begin..).unwrap_or_default().replace("#[cfg(test)]", "");
        for c in piece.chars() {
            match c {
                '{' | '(' => open += 1,
                '}' | ')' => {
                    open -= 1;
                    ended = open <= 0;
                }
                ';' if open == 0 => ended = true,
                _ => {}
            }
            if ended {
                break;
            }
        }
        depth = (!ended).then_some(open);
    }
}

/// Every file below a folder whose name ends in one of the endings, sorted; build output and dot-folders are left out.
///
/// # Errors
/// Fails when a folder cannot be read.
pub fn files(root: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{Kind, lines};

    fn kinds(text: &str) -> Vec<Kind> {
        lines(text).into_iter().map(|l| l.kind).collect()
    }

    #[test]
    fn code_comments_and_blanks_are_told_apart() {
        use Kind::{Blank, Code, Comment};
        assert_eq!(kinds("//! x\n\nlet a = 1; // y\n/* a\n b */\n"), [Comment, Blank, Code, Comment, Comment]);
        assert_eq!(kinds("let a = \"//\n// still text\";\n"), [Code, Code]);
        assert_eq!(kinds("let a = r#\"\" // \"#; // c\n"), [Code]);
    }

    #[test]
    fn strings_and_characters_hide_what_they_hold() {
        let found = lines("let a = \"unsafe \\\" {\"; let b = '\"'; let c: &'a str = '\\''; f()\n");
        assert!(!found[0].is_unsafe && found[0].code.contains("f()"), "{}", found[0].code);
        assert!(found[0].code.contains("&'a str"));
    }

    #[test]
    fn unsafe_blocks_are_counted_to_their_end() {
        let text = "fn f() {\n    // SAFETY: x\n    unsafe {\n        g(1);\n    }\n    h();\n}\nunsafe fn k() {}\n";
        let found: Vec<bool> = lines(text).iter().map(|l| l.is_unsafe).collect();
        assert_eq!(found, [false, false, true, true, true, false, false, true]);
        assert!(!lines("#![forbid(unsafe_code)]\n")[0].is_unsafe);
    }

    #[test]
    fn assembly_counts_as_unsafe() {
        let found: Vec<bool> = lines("global_asm!(\n\"a\",\n);\nlet x;\n").iter().map(|l| l.is_unsafe).collect();
        assert_eq!(found, [true, true, true, false]);
    }

    #[test]
    fn a_test_module_is_counted_to_its_end() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n";
        let found: Vec<bool> = lines(text).iter().map(|l| l.is_test).collect();
        assert_eq!(found, [false, true, true, true, true, false]);
        let outside = lines("#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert!(outside[1].is_test && !outside[2].is_test);
    }
}
