//! Pictures of the book: a compact description becomes an SVG that reads on light and on dark pages.
//!
//! A description is lines of words, `#` begins a comment. Places and sizes are in units of
//! 20 pixels; ` / ` breaks a text.
//!
//! ```text
//! title What a reader who sees nothing is told
//! size WIDTH HEIGHT
//! area KIND X Y WIDTH HEIGHT TEXT          a region, its text at its top left
//! box NAME KIND X Y WIDTH HEIGHT TEXT      a thing, its text in its middle
//! cells NAME KIND X Y WIDTH TEXT | TEXT    things below each other, one unit high: NAME.0, NAME.1 …
//! row NAME KIND X Y WIDTH TEXT | TEXT      things beside each other, WIDTH wide each
//! arrow FROM TO [TEXT]                     also `both` (two heads), `line` (none), `dashed` (one head)
//! note X Y TEXT                            text alone, from its left end
//! ```
//!
//! KIND is a colour with a meaning: `guest`, `hv`, `dom0`, `user`, `table`, `data`, `shared`, `plain`, `bad`, `good`.

mod parse;
mod svg;

pub use parse::{Picture, parse};

/// Pixels of a unit.
const UNIT: f32 = 20.0;
/// Pixels between the lines of a text.
const LINE: f32 = 15.0;
/// Pixels of a character, on the generous side.
const CHARACTER: f32 = 6.9;

/// What a region or thing is, by which it is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A guest, or its kernel.
    Guest,
    /// The hypervisor.
    Hv,
    /// The privileged guest.
    Dom0,
    /// A program of user mode.
    User,
    /// A page table.
    Table,
    /// A page of data.
    Data,
    /// Memory that two share.
    Shared,
    /// Anything else.
    Plain,
    /// What is refused or hostile.
    Bad,
    /// What is allowed.
    Good,
}

impl Kind {
    /// Each, with its word, and its colours on light and on dark pages: of the surface, of the edge.
    const ALL: [(Self, &'static str, [&'static str; 4]); 10] = [
        (Self::Guest, "guest", ["#dcecff", "#2f6db5", "#17304f", "#7db4f0"]),
        (Self::Hv, "hv", ["#ffe3d1", "#c05a1c", "#4d2712", "#f0a070"]),
        (Self::Dom0, "dom0", ["#e4dcff", "#6a4fc0", "#2f2456", "#b3a0f5"]),
        (Self::User, "user", ["#e9f0f5", "#607d90", "#24323b", "#9db8c8"]),
        (Self::Table, "table", ["#fff3c4", "#a07c00", "#453a10", "#e0c050"]),
        (Self::Data, "data", ["#ffffff", "#707070", "#202428", "#a0a8b0"]),
        (Self::Shared, "shared", ["#d9f5ea", "#1d8a64", "#123f30", "#62d0a8"]),
        (Self::Plain, "plain", ["#f4f4f4", "#707070", "#2a2d31", "#a0a8b0"]),
        (Self::Bad, "bad", ["#ffdcdc", "#c02b2b", "#521c1c", "#f08080"]),
        (Self::Good, "good", ["#e0f5d8", "#3c8a2a", "#1f3f18", "#90d878"]),
    ];

    fn of(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name, _)| *name == word).map(|(kind, ..)| *kind)
    }

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("plain", |(_, name, _)| name)
    }
}

/// A rectangle, in units.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rect {
    x: f32,
    y: f32,
    width: f32,
    height: f32,
}

impl Rect {
    fn right(self) -> f32 {
        self.x + self.width
    }

    fn bottom(self) -> f32 {
        self.y + self.height
    }

    fn middle(self) -> (f32, f32) {
        (self.x + self.width / 2.0, self.y + self.height / 2.0)
    }
}

/// The ends of an arrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heads {
    None,
    One,
    Both,
    Dashed,
}

/// One part of a picture.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Area { kind: Kind, rect: Rect, text: String },
    Thing { name: String, kind: Kind, rect: Rect, text: String },
    Arrow { from: Rect, to: Rect, heads: Heads, text: String },
    Note { x: f32, y: f32, text: String },
}

#[cfg(test)]
mod tests {
    use super::parse;

    const GOOD: &str = "title Two\nsize 20 6\nbox a guest 1 1 4 2 A / b\nbox b hv 12 1 4 2 B & <c>\narrow a b calls\n";

    #[test]
    fn a_description_becomes_a_picture() {
        let svg = parse(GOOD).unwrap().svg();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("B &amp; &lt;c&gt;") && svg.contains("prefers-color-scheme: dark"));
        assert!(svg.contains("<title>Two</title>"));
    }

    #[test]
    fn what_cannot_be_drawn_is_told_with_its_line() {
        for (line, told) in [
            ("box a guest 1 1 4 2 A", "line 6: `a` is there already"),
            ("arrow a nobody", "line 6: there is no `nobody`"),
            ("box c purple 1 1 4 2 A", "line 6: no kind `purple`"),
            ("box c guest 18 1 4 2 A", "line 6: beyond the picture"),
            ("box c guest 1 4 2 1 far too long a text", "line 6: the text is wider than its place"),
            ("circle 1 2", "line 6: no such part `circle`"),
            ("box c guest 1 one 4 2 A", "line 6: `one` is no number"),
            ("note 19 5 too long", "line 6: the text is wider than its place"),
        ] {
            let refused = parse(&format!("{GOOD}{line}\n")).unwrap_err().to_string();
            assert!(refused.starts_with(told), "{line}: {refused}");
        }
    }
}
