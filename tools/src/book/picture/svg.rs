//! Draws a picture as SVG: text alone, the same bytes for the same description.

use std::fmt::Write as _;

use super::parse::{lines, width};
use super::{Heads, Kind, LINE, Part, Picture, Rect, UNIT};

/// Pixels between a region's edge and its text.
const MARGIN: f32 = 7.0;

impl Picture {
    /// The picture as an SVG file.
    #[must_use]
    pub fn svg(&self) -> String {
        let (width, height) = (self.width * UNIT, self.height * UNIT);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\">\n<title>{}</title>\n",
            escaped(&self.title)
        );
        svg.push_str(&style());
        let _ = writeln!(svg, "<rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"6\"/>");
        // Regions lie below, arrows above things, words above all.
        for layer in 0..4 {
            for part in &self.parts {
                draw(&mut svg, part, layer);
            }
        }
        svg.push_str("</svg>\n");
        svg
    }
}

fn style() -> String {
    let mut light = String::from(
        "text{font:12px system-ui,sans-serif;fill:#1c1e21}.page{fill:#fdfdfd}.arrow{stroke:#44484d;stroke-width:1.4;\
         fill:none}.head{fill:#44484d}.back{fill:#fdfdfd;opacity:.88}.dash{stroke-dasharray:5 4}.area{opacity:.55}\n",
    );
    let mut dark = String::from(
        "text{fill:#e6e8ea}.page{fill:#16181b}.arrow{stroke:#c0c6cc}.head{fill:#c0c6cc}.back{fill:#16181b}\n",
    );
    for (_, word, [surface, edge, dark_surface, dark_edge]) in Kind::ALL {
        let _ = writeln!(light, ".{word}{{fill:{surface};stroke:{edge}}}");
        let _ = writeln!(dark, ".{word}{{fill:{dark_surface};stroke:{dark_edge}}}");
    }
    format!("<style>\n{light}@media (prefers-color-scheme: dark){{\n{dark}}}\n</style>\n")
}

fn draw(svg: &mut String, part: &Part, layer: u8) {
    match (layer, part) {
        (0, Part::Area { kind, rect, text }) => {
            rectangle(svg, *rect, &format!("{} area", kind.word()), 5.0);
            let (x, mut y) = (rect.x * UNIT + MARGIN, rect.y * UNIT + LINE);
            for line in lines(text) {
                let _ = writeln!(svg, "<text x=\"{x}\" y=\"{y}\" font-weight=\"bold\">{}</text>", escaped(line));
                y += LINE;
            }
        }
        (1, Part::Thing { kind, rect, .. }) => rectangle(svg, *rect, kind.word(), 3.0),
        (2, Part::Arrow { from, to, heads, .. }) => arrow(svg, *from, *to, *heads),
        (3, Part::Thing { rect, text, .. }) => {
            let (x, y) = rect.middle();
            centred(svg, x * UNIT, y * UNIT, text);
        }
        (3, Part::Arrow { from, to, text, .. }) if !text.is_empty() => {
            let ((x1, y1), (x2, y2)) = ends(*from, *to);
            let (x, y) = (f32::midpoint(x1, x2), f32::midpoint(y1, y2));
            let all = lines(text);
            let widest = all.iter().map(|line| width(line)).fold(0.0, f32::max);
            let high = f32::from(u16::try_from(all.len()).unwrap_or(u16::MAX)) * LINE;
            let (left, top) = (x - widest / 2.0 - 2.0, y - high / 2.0);
            let _ = writeln!(
                svg,
                "<rect class=\"back\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{high:.1}\"/>",
                widest + 4.0
            );
            centred(svg, x, y, text);
        }
        (3, Part::Note { x, y, text }) => {
            let mut y = y * UNIT + LINE - 3.0;
            for line in lines(text) {
                let _ = writeln!(svg, "<text x=\"{}\" y=\"{y}\">{}</text>", x * UNIT, escaped(line));
                y += LINE;
            }
        }
        _ => {}
    }
}

fn rectangle(svg: &mut String, rect: Rect, class: &str, round: f32) {
    let _ = writeln!(
        svg,
        "<rect class=\"{class}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"{round}\"/>",
        rect.x * UNIT,
        rect.y * UNIT,
        rect.width * UNIT,
        rect.height * UNIT
    );
}

/// A text around a point, in pixels.
fn centred(svg: &mut String, x: f32, y: f32, text: &str) {
    let all = lines(text);
    let high = f32::from(u16::try_from(all.len()).unwrap_or(u16::MAX)) * LINE;
    let mut y = y - high / 2.0 + LINE - 4.0;
    for line in all {
        let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", escaped(line));
        y += LINE;
    }
}

fn arrow(svg: &mut String, from: Rect, to: Rect, heads: Heads) {
    let ((x1, y1), (x2, y2)) = ends(from, to);
    let dash = if heads == Heads::Dashed { " dash" } else { "" };
    let _ = writeln!(svg, "<path class=\"arrow{dash}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>");
    if heads != Heads::None {
        head(svg, (x1, y1), (x2, y2));
    }
    if heads == Heads::Both {
        head(svg, (x2, y2), (x1, y1));
    }
}

/// The head of an arrow that comes from one point and ends at another.
fn head(svg: &mut String, from: (f32, f32), at: (f32, f32)) {
    const LENGTH: f32 = 9.0;
    const HALF: f32 = 4.0;
    let (dx, dy) = (at.0 - from.0, at.1 - from.1);
    let length = dx.hypot(dy).max(1.0);
    let (dx, dy) = (dx / length, dy / length);
    let (x, y) = (at.0 - dx * LENGTH, at.1 - dy * LENGTH);
    let _ = writeln!(
        svg,
        "<path class=\"head\" d=\"M{:.1} {:.1}L{:.1} {:.1}L{:.1} {:.1}Z\"/>",
        at.0,
        at.1,
        x - dy * HALF,
        y + dx * HALF,
        x + dy * HALF,
        y - dx * HALF
    );
}

/// Where an arrow between two things begins and ends, in pixels: straight across where they face each other, else
/// between the nearest edges on the line of their middles.
fn ends(from: Rect, to: Rect) -> ((f32, f32), (f32, f32)) {
    let scaled = |(x, y): (f32, f32)| (x * UNIT, y * UNIT);
    let (left, right) = (from.x.max(to.x), from.right().min(to.right()));
    let (top, bottom) = (from.y.max(to.y), from.bottom().min(to.bottom()));
    let (a, b) = if left < right && (from.bottom() <= to.y || to.bottom() <= from.y) {
        let x = f32::midpoint(left, right);
        if from.bottom() <= to.y { ((x, from.bottom()), (x, to.y)) } else { ((x, from.y), (x, to.bottom())) }
    } else if top < bottom && (from.right() <= to.x || to.right() <= from.x) {
        let y = f32::midpoint(top, bottom);
        if from.right() <= to.x { ((from.right(), y), (to.x, y)) } else { ((from.x, y), (to.right(), y)) }
    } else {
        (clipped(from, to.middle()), clipped(to, from.middle()))
    };
    (scaled(a), scaled(b))
}

/// Where the line from a rectangle's middle to a point leaves it.
fn clipped(rect: Rect, to: (f32, f32)) -> (f32, f32) {
    let (x, y) = rect.middle();
    let (dx, dy) = (to.0 - x, to.1 - y);
    let across = if dx == 0.0 { f32::INFINITY } else { rect.width / 2.0 / dx.abs() };
    let down = if dy == 0.0 { f32::INFINITY } else { rect.height / 2.0 / dy.abs() };
    let part = across.min(down).min(1.0);
    (x + dx * part, y + dy * part)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
