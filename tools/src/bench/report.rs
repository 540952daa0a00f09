//! What was measured as a table, as JSON and as a picture.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::{Map, Value, json};

use super::events::{Row, Rows, WEIGHTS};
use super::number;
use crate::figures::{FIGURES, Figure};

/// Both hypervisors' figures of a row, where they are known.
struct Pair<'a> {
    name: &'a str,
    figure: Option<&'a Figure>,
    ours: Option<&'a Row>,
    theirs: Option<&'a Row>,
}

impl Pair<'_> {
    fn what(&self) -> &str {
        self.figure.map_or(self.name, |figure| figure.what)
    }

    /// Instructions, Oxen's and Xen's: the recorded ones where none were measured.
    fn instructions(&self) -> [Option<f64>; 2] {
        [
            self.ours.map(|row| row.instructions),
            self.theirs.map_or(self.figure.map(|f| f.xen), |r| Some(r.instructions)),
        ]
    }

    fn cycles(&self) -> [Option<f64>; 2] {
        let of = |row: Option<&Row>| row.filter(|row| !row.events.is_empty()).map(Row::cycles);
        [of(self.ours), of(self.theirs).or_else(|| self.figure.map(|figure| figure.xen_cycles))]
    }
}

fn ratio([ours, theirs]: [Option<f64>; 2]) -> Option<f64> {
    Some(ours? / theirs.filter(|theirs| *theirs > 0.0)?)
}

/// The rows in the table's order: those with a name of their own first.
fn pairs<'a>(ours: &'a Rows, theirs: Option<&'a Rows>) -> Vec<Pair<'a>> {
    let row = |name: &'a str, figure| Pair {
        name,
        figure,
        ours: ours.get(name),
        theirs: theirs.and_then(|theirs| theirs.get(name)),
    };
    let mut pairs: Vec<Pair<'a>> = FIGURES.iter().map(|figure| row(figure.name, Some(figure))).collect();
    let mut others: Vec<&String> = ours.keys().chain(theirs.into_iter().flat_map(|rows| rows.keys())).collect();
    others.retain(|name| FIGURES.iter().all(|figure| figure.name != name.as_str()));
    others.sort();
    others.dedup();
    pairs.extend(others.into_iter().map(|name| row(name, None)));
    pairs
}

/// The geometric mean.
fn mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// The table, in the form that `docs/performance.md` holds.
pub(super) fn table(ours: &Rows, theirs: Option<&Rows>) -> String {
    let measured = if theirs.is_some() { "Xen 4.17, measured" } else { "Xen 4.17" };
    let mut text = format!(
        "| primitive (medians) | instructions: Oxen | {measured} | to reach | Oxen ÷ Xen | cycles by the model: Oxen | \
         Xen | Oxen ÷ Xen |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    let cell = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let part = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"));
    let pairs = pairs(ours, theirs);
    for pair in &pairs {
        let (instructions, cycles) = (pair.instructions(), pair.cycles());
        let goal = pair.figure.and_then(|figure| figure.goal);
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} | {} | {} |\n",
            pair.what(),
            cell(instructions[0]),
            cell(instructions[1]),
            goal.map_or_else(|| "–".to_owned(), |goal| format!("≤ {}", number(goal))),
            part(ratio(instructions)),
            cell(cycles[0].map(f64::round)),
            cell(cycles[1].map(f64::round)),
            part(ratio(cycles)),
        ));
    }
    let instructions = mean(pairs.iter().filter_map(|pair| ratio(pair.instructions())));
    let cycles = mean(pairs.iter().filter_map(|pair| ratio(pair.cycles())));
    text.push_str(&format!("| geometric mean | | | | {} | | | {} |\n", part(instructions), part(cycles)));
    text
}

/// The events of each row.
pub(super) fn events(ours: &Rows, theirs: Option<&Rows>) -> String {
    let mut text = String::from("| events | Oxen | Xen 4.17 |\n|---|---|---|\n");
    let cell = |row: Option<&Row>| row.map_or_else(|| "–".to_owned(), Row::text);
    for pair in pairs(ours, theirs) {
        text.push_str(&format!("| {} | {} | {} |\n", pair.what(), cell(pair.ours), cell(pair.theirs)));
    }
    text
}

/// All figures by the primitive's name.
pub(super) fn json(ours: &Rows, theirs: Option<&Rows>) -> String {
    let figures = |row: Option<&Row>| match row {
        None => Value::Null,
        Some(row) => json!({ "instructions": row.instructions, "cycles": row.cycles(), "events": row.events }),
    };
    let weights: Map<String, Value> =
        WEIGHTS.iter().map(|&(name, weight, _)| (name.to_owned(), json!(weight))).collect();
    let rows: Map<String, Value> = pairs(ours, theirs)
        .iter()
        .map(|pair| (pair.name.to_owned(), json!({ "oxen": figures(pair.ours), "xen": figures(pair.theirs) })))
        .collect();
    format!("{:#}\n", json!({ "weights": weights, "rows": rows }))
}

const ROW_HEIGHT: u32 = 18;
const INSTRUCTIONS: RGBColor = RGBColor(0x9e, 0xc5, 0xe8);
const CYCLES: RGBColor = RGBColor(0x1f, 0x77, 0xb4);

/// A picture as SVG: Oxen's part of Xen's instructions and cycles, a pair of bars for each row.
///
/// # Errors
/// Fails where it cannot be drawn.
pub(super) fn plot(ours: &Rows, theirs: Option<&Rows>) -> Result<String> {
    let mut svg = String::new();
    drawn(&mut svg, &pairs(ours, theirs)).map_err(|why| anyhow!("the picture cannot be drawn: {why}"))?;
    Ok(svg)
}

fn drawn(svg: &mut String, pairs: &[Pair<'_>]) -> Result<(), Box<dyn std::error::Error>> {
    let rows = pairs.len() as u32;
    let area = SVGBackend::with_string(svg, (900, rows * ROW_HEIGHT + 90)).into_drawing_area();
    area.fill(&WHITE)?;
    let most = pairs.iter().flat_map(|pair| [ratio(pair.instructions()), ratio(pair.cycles())]).flatten();
    let end = most.fold(1.0, f64::max) * 1.05;
    let mut chart = ChartBuilder::on(&area)
        .caption("Oxen's part of Xen's: instructions (light) and cycles by the model", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(330)
        .build_cartesian_2d(0.0..end, 0.0..f64::from(rows))?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().y_labels(0).draw()?;
    for (index, pair) in pairs.iter().enumerate() {
        let top = f64::from(rows) - index as f64;
        let bar = |value: f64, from: f64, colour: RGBColor| {
            Rectangle::new([(0.0, top - from), (value, top - from - 0.38)], colour.filled())
        };
        chart.draw_series(ratio(pair.instructions()).map(|value| bar(value, 0.12, INSTRUCTIONS)))?;
        chart.draw_series(ratio(pair.cycles()).map(|value| bar(value, 0.5, CYCLES)))?;
        let (x, y) = chart.backend_coord(&(0.0, top - 0.5));
        let style = ("sans-serif", 11).into_font().color(&BLACK).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw_text(pair.what(), &style, (x - 6, y))?;
    }
    chart.draw_series(LineSeries::new([(1.0, 0.0), (1.0, f64::from(rows))], BLACK))?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Row, Rows, events, json, plot, table};

    fn rows(instructions: f64) -> Rows {
        let row = Row { instructions, events: [("syscall", 1.0), ("sysret", 1.0)].into() };
        Rows::from([("null_hypercall".to_owned(), row.clone()), ("extra".to_owned(), row)])
    }

    #[test]
    fn the_table_sets_each_figure_beside_xens() {
        let text = table(&rows(84.0), Some(&rows(252.0)));
        assert!(
            text.contains("| null hypercall (xen_version) | 84 | 252 | ≤ 84 | 0.33 | 122 | 206 | 0.59 |"),
            "{text}"
        );
        assert!(text.contains("| extra | 84 | 252 | – | 0.33 | 122 | 206 | 0.59 |"), "{text}");
        assert!(text.ends_with("| geometric mean | | | | 0.33 | | | 0.59 |\n"), "{text}");
    }

    #[test]
    fn recorded_figures_stand_where_xen_was_not_measured() {
        let text = table(&rows(84.0), None);
        assert!(text.contains("| null hypercall (xen_version) | 84 | 251 | ≤ 84 | 0.33 | 122 | "), "{text}");
        assert!(text.contains("| extra | 84 | – | – | – | 122 | – | – |"), "{text}");
    }

    #[test]
    fn events_and_json_and_picture_name_each_row() {
        let (ours, theirs) = (rows(84.0), rows(252.0));
        assert!(events(&ours, None).contains("| extra | 1 syscall, 1 sysret | – |"));
        let json: serde_json::Value = serde_json::from_str(&json(&ours, Some(&theirs))).unwrap();
        assert_eq!(json["rows"]["extra"]["oxen"]["events"]["sysret"], 1.0);
        assert_eq!(json["rows"]["extra"]["xen"]["cycles"], 206.0);
        let svg = plot(&ours, Some(&theirs)).unwrap();
        assert!(svg.contains("extra") && svg.contains("null hypercall"), "{svg}");
        assert_eq!(svg, plot(&ours, Some(&theirs)).unwrap());
    }
}
