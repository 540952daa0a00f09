//! Reads the crate `abi` as source: hypercalls, commands, structures and errors, each with its documentation.

use std::path::Path;

use anyhow::{Context, Result};
use quote::ToTokens as _;
use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Attribute, Expr, Ident, Item, LitInt, LitStr, Token, Type, braced, bracketed};

use crate::source;

/// What the crate tells of the interface.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// In the order of their numbers.
    pub hypercalls: Vec<Hypercall>,
    /// In the order of the sources.
    pub commands: Vec<Command>,
    /// In the order of the sources.
    pub structures: Vec<Structure>,
    /// In the order of their numbers.
    pub errors: Vec<Failure>,
}

/// A hypercall.
#[derive(Clone, Debug)]
pub struct Hypercall {
    /// Its number.
    pub number: u64,
    /// Its name in Xen's header, without the prefix.
    pub name: String,
    /// What its documentation says.
    pub docs: String,
}

/// A sub-operation of a hypercall.
#[derive(Clone, Debug)]
pub struct Command {
    /// The hypercall's name.
    pub of: String,
    /// Xen's name of the constant.
    pub name: String,
    /// Its value as the source has it.
    pub value: String,
    /// What its documentation says, beyond whose command it is.
    pub docs: String,
}

/// A structure that guest and hypervisor exchange.
#[derive(Clone, Debug)]
pub struct Structure {
    /// Its name.
    pub name: String,
    /// Its bytes.
    pub size: String,
    /// What its documentation says.
    pub docs: String,
    /// Name, type and documentation of each field; padding is left out.
    pub fields: Vec<[String; 3]>,
}

/// An error.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its number.
    pub number: u64,
    /// Its name in Xen's header, without the prefix.
    pub name: String,
    /// What it means.
    pub docs: String,
}

/// What the documentation of a group of commands begins with; the hypercall's name follows in backquotes.
const GROUP: &str = "A command of `";

/// Reads all sources below a folder.
///
/// # Errors
/// Fails where a file cannot be read or is no Rust.
pub(super) fn read(folder: &Path) -> Result<Interface> {
    let mut interface = Interface::default();
    for path in source::files(folder, &[".rs"])? {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        interface.take(&text).with_context(|| format!("cannot read {} as Rust", path.display()))?;
    }
    interface.hypercalls.sort_by_key(|call| call.number);
    interface.errors.sort_by_key(|error| error.number);
    Ok(interface)
}

impl Interface {
    /// Takes what one source file declares.
    ///
    /// # Errors
    /// Fails where it is no Rust, or a macro of ours is called in another form than it has.
    pub fn take(&mut self, text: &str) -> syn::Result<()> {
        for item in syn::parse_file(text)?.items {
            match item {
                Item::Macro(call) => {
                    let Some(name) = call.mac.path.get_ident().filter(|_| call.ident.is_none()) else { continue };
                    match name.to_string().as_str() {
                        "hypercalls" => self
                            .hypercalls
                            .extend(numbered(&call.mac)?.map(|(number, name, docs)| Hypercall { number, name, docs })),
                        "errno" => self.errors.extend(numbered(&call.mac)?.map(|(number, name, docs)| Failure {
                            number,
                            name,
                            docs,
                        })),
                        "abi_struct" => self.structures.extend(call.mac.parse_body::<Structures>()?.0),
                        "abi_consts" => self.commands.extend(call.mac.parse_body::<Constants>()?.commands()),
                        _ => {}
                    }
                }
                Item::Struct(item) => {
                    let fields = item.fields.iter().filter_map(field).collect();
                    let docs = documentation(&item.attrs);
                    self.structures.push(Structure { name: item.ident.to_string(), size: String::new(), docs, fields });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// What attributes document, as text.
fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|attribute| attribute.path().is_ident("doc")).filter_map(|attribute| {
        let Expr::Lit(value) = &attribute.meta.require_name_value().ok()?.value else { return None };
        let syn::Lit::Str(text) = &value.lit else { return None };
        let text = text.value();
        Some(text.strip_prefix(' ').unwrap_or(&text).to_owned())
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn field(field: &syn::Field) -> Option<[String; 3]> {
    let name = field.ident.as_ref()?.to_string();
    let name = name.strip_prefix("r#").unwrap_or(&name);
    let is_padding = name.starts_with('_');
    let ty = field.ty.to_token_stream().to_string().replace(' ', "").replace(';', "; ");
    (!is_padding).then(|| [name.to_owned(), ty, documentation(&field.attrs)])
}

/// The entries of a macro that numbers names: `/// … Name = 1, "name";`.
fn numbered(call: &syn::Macro) -> syn::Result<impl Iterator<Item = (u64, String, String)> + use<>> {
    struct Entry(u64, String, String);
    impl Parse for Entry {
        fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
            let docs = documentation(&input.call(Attribute::parse_outer)?);
            input.parse::<Ident>()?;
            input.parse::<Token![=]>()?;
            let number = input.parse::<LitInt>()?.base10_parse()?;
            input.parse::<Token![,]>()?;
            Ok(Self(number, input.parse::<LitStr>()?.value(), docs))
        }
    }
    let entries = call.parse_body_with(Punctuated::<Entry, Token![;]>::parse_terminated)?;
    Ok(entries.into_iter().map(|Entry(number, name, docs)| (number, name, docs)))
}

/// The body of `abi_struct!`.
struct Structures(Vec<Structure>);

impl Parse for Structures {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let mut found = Vec::new();
        while !input.is_empty() {
            let docs = documentation(&input.call(Attribute::parse_outer)?);
            input.parse::<Token![pub]>()?;
            input.parse::<Token![struct]>()?;
            let name = input.parse::<Ident>()?.to_string();
            let (size, body);
            bracketed!(size in input);
            let size = size.parse::<Expr>()?.to_token_stream().to_string();
            braced!(body in input);
            let fields = body.parse_terminated(syn::Field::parse_named, Token![,])?;
            found.push(Structure { name, size, docs, fields: fields.iter().filter_map(field).collect() });
        }
        Ok(Self(found))
    }
}

/// The body of `abi_consts!`.
struct Constants {
    group: String,
    each: Vec<(String, String, String)>,
}

impl Parse for Constants {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let group = documentation(&input.call(Attribute::parse_outer)?);
        input.parse::<Type>()?;
        input.parse::<Token![:]>()?;
        let mut each = Vec::new();
        while !input.is_empty() {
            let docs = documentation(&input.call(Attribute::parse_outer)?);
            let name = input.parse::<Ident>()?.to_string();
            input.parse::<Token![=]>()?;
            each.push((name, input.parse::<Expr>()?.to_token_stream().to_string(), docs));
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(Self { group, each })
    }
}

impl Constants {
    /// What of it are commands of a hypercall.
    fn commands(self) -> Vec<Command> {
        let Some((of, _)) = self.group.strip_prefix(GROUP).and_then(|rest| rest.split_once('`')) else {
            return Vec::new();
        };
        let command = |(name, value, docs)| Command { of: of.to_owned(), name, value, docs };
        self.each.into_iter().map(command).collect()
    }
}
