//! Reads a page of Markdown as far as links, code and headings go.

/// Something on a page, with the number of its line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A link or a picture: its text and where it leads.
    Link { text: String, target: String },
    /// Code inside a line.
    Code(String),
    /// A line of a block of code that is for a shell.
    Shell(String),
    /// A heading, as text.
    Heading(String),
}

/// The pieces of a page.
pub(super) fn pieces(text: &str) -> Vec<(usize, Piece)> {
    let mut found = Vec::new();
    let mut fence: Option<bool> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let is_shell = matches!(language.trim(), "" | "sh" | "console");
            fence = if fence.is_some() { None } else { Some(is_shell) };
            continue;
        }
        match fence {
            Some(true) => found.push((number, Piece::Shell(line.trim().to_owned()))),
            Some(false) => {}
            None => {
                if line.starts_with('#') {
                    found.push((number, Piece::Heading(line.trim_start_matches('#').trim().to_owned())));
                }
                inside(line, |piece| found.push((number, piece)));
            }
        }
    }
    found
}

/// Links and code inside a line.
fn inside(line: &str, mut found: impl FnMut(Piece)) {
    let mut rest = line;
    while let Some(at) = rest.find(['`', '[']) {
        let Some((_, after)) = rest.split_at_checked(at + 1) else { return };
        if rest.get(at..).is_some_and(|rest| rest.starts_with('`')) {
            let Some((code, behind)) = after.split_once('`') else { return };
            found(Piece::Code(code.to_owned()));
            rest = behind;
            continue;
        }
        // The text of a link may hold code with brackets in it, but not the two that end it.
        let link = after.split_once("](").and_then(|(text, target)| {
            let (target, behind) = target.split_once(')')?;
            (!text.contains("[[")).then_some((text, target, behind))
        });
        match link {
            Some((text, target, behind)) if !text.contains('[') => {
                found(Piece::Link { text: text.to_owned(), target: target.to_owned() });
                rest = behind;
            }
            _ => rest = after,
        }
    }
}

/// The anchor that a heading gets, as GitHub and mdBook make it.
pub(super) fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The words of a command line as a shell takes them: quotes keep together, ` #` begins a comment.
pub(super) fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::{Piece, anchor, pieces, words};

    #[test]
    fn links_code_and_commands_are_found() {
        let text = "# A `b` c\nsee [`x`](y.rs#z), `code` and ![p](p.svg)\n\
            ```\ncargo xtask run # now\n```\n```rust\n[no](no)\n```\n";
        let link = |text: &str, target: &str| Piece::Link { text: text.into(), target: target.into() };
        assert_eq!(
            pieces(text),
            [
                (1, Piece::Heading("A `b` c".into())),
                (1, Piece::Code("b".into())),
                (2, link("`x`", "y.rs#z")),
                (2, Piece::Code("code".into())),
                (2, link("p", "p.svg")),
                (4, Piece::Shell("cargo xtask run # now".into())),
            ]
        );
    }

    #[test]
    fn a_shells_words_are_taken_as_it_takes_them() {
        assert_eq!(words("run --script \"xl list; send a 'b c'\" # x"), ["run", "--script", "xl list; send a 'b c'"]);
        assert_eq!(words("a '' b#c"), ["a", "", "b#c"]);
    }

    #[test]
    fn anchors_are_those_of_the_renderers() {
        assert_eq!(anchor("Two counts, one `word`"), "two-counts-one-word");
        assert_eq!(anchor("mmu_update"), "mmu_update");
    }
}
