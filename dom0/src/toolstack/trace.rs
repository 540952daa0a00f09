//! The hypervisor's trace, taken out of its rings and put down on a disk, as `xentrace` puts it into a file.
//!
//! The stream is one window after another: a record that says of which processor and how long, then what stood in that
//! ring. So `xenalyze` reads it. The first window holds records of ours: the clock, and the names of domains.

use alloc::{collections::BTreeMap, format, rc::Rc, string::String, vec::Vec};
use core::cell::Cell;
use core::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow, bail, ensure};
use oxen_abi::domid::DomId;
use oxen_abi::errno::Errno;
use oxen_abi::trace::{
    OXEN_TRC_CLOCK, OXEN_TRC_DOMAIN_NAME, Record, TRACE_EXTRA_MAX, TRC_ALL, TRC_DOM0OP, TRC_GEN, TRC_HW,
    TRC_LOST_RECORDS, TRC_MEM, TRC_PV, TRC_SCHED, TRC_TRACE_CPU_CHANGE, TRC_TRACE_WRAP_BUFFER, header,
};
use oxen_domu_lib::memory::{
    Mfn, PAGE_SIZE,
    map::{Access, Mapping, Words},
};
use oxen_domu_lib::{control, task, time};
use zerocopy::IntoBytes;

use super::save::disk::Writer;
use super::system::System;
use super::tracer::{Summary, Tracer};
use crate::errno::Named;
use crate::saved::stream::Sink;

/// Classes of events by name.
const CLASSES: [(&str, u32); 7] = [
    ("all", TRC_ALL),
    ("gen", TRC_GEN),
    ("sched", TRC_SCHED),
    ("dom0op", TRC_DOM0OP),
    ("mem", TRC_MEM),
    ("pv", TRC_PV),
    ("hw", TRC_HW),
];

/// Pages of each processor's buffer.
pub const PAGES: u32 = 256;

/// How long a ring is left alone, in nanoseconds.
const PAUSE: u64 = 5_000_000;
/// Bytes at the begin of a ring: how far it was read, and written.
const META: usize = 8;

/// The ring of a processor.
struct Ring {
    cpu: u32,
    pages: Mapping,
}

impl Ring {
    /// Takes what stands in the ring: at most two pieces, because it goes round.
    fn take(&self) -> Vec<u32> {
        let words = self.pages.words32();
        let [read, written] = [0, 1].map(|at| words.get(at));
        let (Some(read), Some(written), Some(data)) = (read, written, words.get(META / 4..)) else { return Vec::new() };
        let (from, to) = (read.load(Ordering::Relaxed) as usize / 4, written.load(Ordering::Acquire) as usize / 4);
        let count = if to >= from { to - from } else { to + 2 * data.len() - from };
        let start = if from < data.len() { from } else { from - data.len() };
        let taken = data.iter().cycle().skip(start).take(count.min(data.len()));
        let taken = taken.map(|word| word.load(Ordering::Relaxed)).collect();
        read.store((to * 4) as u32, Ordering::Release);
        taken
    }
}

/// Maps the rings that the description names.
fn map_rings() -> Result<Vec<Ring>> {
    let info = control::trace_info().map_err(Named).context("the hypervisor does not trace")?;
    ensure!(info.buffer_mfn != 0, "there are no trace buffers");
    let refused = "the trace buffers cannot be mapped";
    let frames: Vec<Mfn> =
        (0..(info.size as usize).div_ceil(PAGE_SIZE) as u64).map(|page| Mfn::new(info.buffer_mfn + page)).collect();
    let description = Mapping::of(DomId::XEN, &frames, Access::ReadOnly).map_err(Named).context(refused)?;
    let (heads, words) = (description.words16(), description.words32());
    let pages = heads.first().map_or(0, |pages| usize::from(pages.load(Ordering::Relaxed)));
    let cpus = control::physical_info().map_err(Named)?.max_cpu_id + 1;
    let mut rings = Vec::new();
    for (cpu, offset) in (0..cpus).zip(heads.iter().skip(1)) {
        let offset = usize::from(offset.load(Ordering::Relaxed));
        let Some(list) = words.get(offset..offset + pages).filter(|_| offset != 0) else { continue };
        let frames: Vec<Mfn> = list.iter().map(|frame| Mfn::new(frame.load(Ordering::Relaxed).into())).collect();
        let pages = Mapping::of(DomId::XEN, &frames, Access::ReadWrite).map_err(Named).context(refused)?;
        rings.push(Ring { cpu, pages });
    }
    Ok(rings)
}

/// What is written, with what was counted on the way.
struct Stream {
    disk: Writer,
    summary: Summary,
    names: BTreeMap<u16, String>,
}

impl Stream {
    async fn window(&mut self, cpu: u32, words: &[u32]) -> Result<()> {
        let head = [header(TRC_TRACE_CPU_CHANGE, 2, false), cpu, (words.len() * 4) as u32];
        self.disk.write(head.as_bytes()).await?;
        self.disk.write(words.as_bytes()).await?;
        let mut rest = words;
        while let Some((record, after)) = Record::split_first(rest) {
            match record.event {
                TRC_LOST_RECORDS => self.summary.lost += u64::from(record.extra.first().copied().unwrap_or(0)),
                TRC_TRACE_WRAP_BUFFER | OXEN_TRC_CLOCK | OXEN_TRC_DOMAIN_NAME => {}
                _ => self.summary.records += 1,
            }
            rest = after;
        }
        Ok(())
    }

    /// Writes the names of domains that have none yet, or another.
    async fn name(&mut self, system: &System) -> Result<()> {
        let mut now: Vec<(u16, String)> = alloc::vec![(0, system.name_of(0))];
        now.extend(system.guests.alive().iter().map(|guest| (guest.domain.get().0, String::from(&*guest.name()))));
        let mut words = Vec::new();
        for (domain, name) in now.into_iter().filter(|(_, name)| !name.is_empty()) {
            if self.names.get(&domain) != Some(&name) {
                name_record(domain, &name, &mut words);
                self.names.insert(domain, name);
            }
        }
        if words.is_empty() { Ok(()) } else { self.window(0, &words).await }
    }
}

/// A name, four bytes a word, as far as a record has room.
fn name_record(domain: u16, name: &str, words: &mut Vec<u32>) {
    let mut text = [0_u8; (TRACE_EXTRA_MAX - 1) * 4];
    let text_words = name.len().min(text.len()).div_ceil(4);
    text.iter_mut().zip(name.bytes()).for_each(|(place, byte)| *place = byte);
    words.extend([header(OXEN_TRC_DOMAIN_NAME, 1 + text_words, false), u32::from(domain)]);
    let quads = text.as_chunks().0.iter().take(text_words);
    words.extend(quads.map(|bytes| u32::from_le_bytes(*bytes)));
}

/// A mask of events, from a number or from names of classes.
///
/// # Errors
/// There are no such events.
pub fn events(text: &str) -> Result<u32> {
    if let Some(digits) = text.strip_prefix("0x") {
        return u32::from_str_radix(digits, 16).with_context(|| format!("`{text}` is no mask of events"));
    }
    text.split(',').try_fold(0, |mask, name| {
        let class = CLASSES.iter().find(|(known, _)| *known == name);
        let (_, bits) = class.with_context(|| {
            format!("there are no events `{name}`: all, gen, sched, dom0op, mem, pv, hw, or a mask 0x…")
        })?;
        Ok(mask | bits)
    })
}

/// Begins to trace these events into a disk.
///
/// # Errors
/// It is traced already, the hypervisor cannot, there is no such disk, or it is in use.
pub fn begin(system: &Rc<System>, disk: &str, events: u32, pages: u32) -> Result<()> {
    if system.tracer.borrow().is_some() {
        bail!("it is traced already; `trace end` ends it");
    }
    let disk = Writer::new(system.disks.open_known(disk, true)?)?;
    match control::make_trace_buffers(pages) {
        // What there is stays as large as it is.
        Ok(()) | Err(Errno::Inval) => {}
        Err(errno) => return Err(anyhow!(Named(errno)).context("there can be no trace buffers")),
    }
    let rings = map_rings()?;
    let khz = control::physical_info().map_err(Named)?.cpu_khz;
    control::trace(Some(events)).map_err(Named).context("the hypervisor does not trace")?;
    let tracer = Rc::new(Tracer::default());
    *system.tracer.borrow_mut() = Some(tracer.clone());
    system.notes.turn(true);
    let system = system.clone();
    task::spawn(async move {
        let stream = Stream { disk, summary: Summary::default(), names: BTreeMap::new() };
        let outcome = take_down(&system, stream, &rings, khz, &tracer.ends).await;
        system.notes.turn(false);
        if outcome.is_err() {
            // Nobody reads any more.
            let _ = control::trace(None);
        }
        tracer.ended.set(Rc::new(outcome));
    });
    Ok(())
}

async fn take_down(
    system: &System,
    mut stream: Stream,
    rings: &[Ring],
    khz: u32,
    ends: &Cell<bool>,
) -> Result<Summary> {
    stream.window(0, &[header(OXEN_TRC_CLOCK, 1, false), khz]).await?;
    // What the backends note stands in windows of a processor that is none.
    let backends = rings.iter().map(|ring| ring.cpu + 1).max().unwrap_or(0);
    loop {
        let is_last = ends.get();
        stream.name(system).await?;
        for ring in rings {
            let words = ring.take();
            if !words.is_empty() {
                stream.window(ring.cpu, &words).await?;
            }
        }
        let notes = system.notes.take();
        if !notes.is_empty() {
            stream.window(backends, &notes).await?;
        }
        if is_last {
            break;
        }
        time::sleep(PAUSE).await;
    }
    // A header of zeros: here it ends.
    stream.disk.write(&[0; 4]).await?;
    let Stream { disk, summary, .. } = stream;
    Ok(Summary { bytes: disk.finish().await?, ..summary })
}

/// Ends the trace, and puts down what is left.
///
/// # Errors
/// Nothing is traced, or the disk is full or has failed.
pub async fn end(system: &System) -> Result<Summary> {
    let tracer = system.tracer.borrow().clone().context("nothing is traced; `trace begin DISK` begins")?;
    control::trace(None).map_err(Named).context("the hypervisor does not end the trace")?;
    tracer.ends.set(true);
    let outcome = tracer.ended.wait().await;
    *system.tracer.borrow_mut() = None;
    match &*outcome {
        Ok(summary) => Ok(*summary),
        Err(error) => Err(anyhow!("the trace ends early: {error:#}")),
    }
}
