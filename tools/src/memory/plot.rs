//! The picture of a run: what each guest has, over time, and its target.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::Series;

const SIZE: (u32, u32) = (800, 420);
const COLOURS: [RGBColor; 4] =
    [RGBColor(0x1f, 0x77, 0xb4), RGBColor(0xd6, 0x27, 0x28), RGBColor(0x2c, 0xa0, 0x2c), RGBColor(0x94, 0x67, 0xbd)];

/// Draws a series as SVG: a line for what a guest has, a thin one for its target.
///
/// # Errors
/// Fails where it cannot be drawn.
pub(super) fn draw(series: &Series, title: &str) -> Result<String> {
    let mut svg = String::new();
    drawn(&mut svg, series, title).map_err(|why| anyhow!("the picture cannot be drawn: {why}"))?;
    Ok(svg)
}

fn drawn(svg: &mut String, series: &Series, title: &str) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let end = series.seconds.len().saturating_sub(1) as u32;
    let most = series.seconds.iter().flatten().map(|point| point.has.max(point.target)).max().unwrap_or(0);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0..end, 0..most + most / 10 + 1)?;
    chart.configure_mesh().x_desc("seconds").y_desc("MiB").light_line_style(TRANSPARENT).draw()?;
    for ((number, name), &colour) in series.guests.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let line = |of: fn(&super::series::Point) -> u32| {
            series
                .seconds
                .iter()
                .enumerate()
                .filter_map(move |(second, points)| Some((second as u32, of(points.get(number)?))))
        };
        chart.draw_series(LineSeries::new(line(|point| point.target), colour.mix(0.4)))?;
        chart
            .draw_series(LineSeries::new(line(|point| point.has), colour.stroke_width(2)))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::series::Point;
    use super::*;

    #[test]
    fn a_picture_has_each_guest_and_is_the_same_each_time() {
        let point = |has| Point { has, target: 64, used: None };
        let series = Series {
            guests: vec!["idle".to_owned(), "busy".to_owned()],
            seconds: vec![vec![point(64), point(64)], vec![point(30), point(98)]],
        };
        let svg = draw(&series, "a title").unwrap();
        assert!(["<svg", "a title", "idle", "busy", "MiB"].iter().all(|text| svg.contains(text)), "{svg}");
        assert_eq!(draw(&series, "a title").unwrap(), svg);
    }
}
