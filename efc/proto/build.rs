//! Generates the messages of `proto/efc.proto` with a protobuf compiler written in Rust, so that no `protoc` is needed, and
//! beside them what the options `change` and `option_name` of their fields say, which prost does not know.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};

/// The message whose fields have the option.
const ROOT: &str = "efc.v1.DaemonConfig";
/// The message whose contents no log may show.
const SECRETS: &str = "efc.v1.WorkersSecrets";
/// A field of a message that is a field: so many times the number of that one, and its own.
const NESTED: u32 = 1000;

fn main() {
    let mut compiler = protox::Compiler::new(["../../proto"]).expect("the folder of protocols");
    compiler.include_source_info(true).open_file("efc.proto").expect("proto/efc.proto compiles");
    let mut messages = prost_build::Config::new();
    messages.skip_debug([SECRETS]);
    messages.compile_fds(compiler.file_descriptor_set()).expect("messages are generated");
    let changes = changes(&compiler.descriptor_pool());
    let folder = std::env::var("OUT_DIR").expect("cargo says where");
    std::fs::write(format!("{folder}/changes.rs"), changes).expect("changes.rs is written");
    println!("cargo:rerun-if-changed=../../proto/efc.proto");
}

/// What is implemented for [`ROOT`] and for the messages in it.
fn changes(pool: &DescriptorPool) -> String {
    let mut code = String::new();
    let mut waiting = vec![pool.get_message_by_name(ROOT).expect("the message of options")];
    let mut done = BTreeSet::new();
    while let Some(message) = waiting.pop() {
        if done.insert(message.full_name().to_owned()) {
            write_message(&mut code, pool, &message);
            waiting.extend(message.fields().filter_map(|field| nested(&field)));
        }
    }
    code
}

fn write_message(code: &mut String, pool: &DescriptorPool, message: &MessageDescriptor) {
    let name = message.name();
    let (mut differences, mut merged) = (String::new(), String::new());
    for field in message.fields() {
        let (field_name, number) = (field.name(), field.number());
        let within = number * NESTED;
        assert!(number < NESTED, "numbers of {} stay apart from those of fields in it", field.full_name());
        let _ = match nested(&field) {
            Some(_) => write!(
                differences,
                "
        if self.{field_name} != other.{field_name} {{
            let [own, others] = [self, other].map(|all| all.{field_name}.clone().unwrap_or_default());
            found.extend(own.differences(&others).into_iter().map(|(inner, change)| ({within} + inner, change)));
        }}",
            ),
            None => write!(
                differences,
                "
        if self.{field_name} != other.{field_name} {{
            found.push(({number}, Change::{}));
        }}",
                change_of(pool, &field),
            ),
        };
        let changed = match nested(&field) {
            Some(_) => {
                "{
            let [own, base] = [self, base].map(|all| all.FIELD.clone().unwrap_or_default());
            merged.FIELD = Some(own.merged(wish.FIELD.unwrap_or_default(), &base));
        }"
            }
            None => {
                "{
            merged.FIELD.clone_from(&wish.FIELD);
        }"
            }
        };
        let changed = changed.replace("FIELD", field_name);
        let _ = write!(merged, "\n        if wish.{field_name} != base.{field_name} {changed}");
    }
    let live = live_fields(pool, message);
    let names = option_names(pool, message);
    let _ = write!(
        code,
        "impl {name} {{
    /// Numbers of the fields that a running daemon takes.
    pub const LIVE_FIELDS: &[u32] = &{live:?};
    /// Number of each field, and what people call it.
    pub const OPTION_NAMES: &[(u32, &str)] = &{names:?};

    /// Number of each field that is not the same in `other`, and what it takes to change it.
    pub fn differences(&self, other: &{name}) -> Vec<(u32, Change)> {{
        let mut found = Vec::new();{differences}
        found
    }}

    /// These values, with what `wish` has otherwise than `base`.
    #[must_use]
    pub fn merged(&self, wish: {name}, base: &{name}) -> {name} {{
        let mut merged = self.clone();{merged}
        merged
    }}
}}
",
    );
}

fn live_fields(pool: &DescriptorPool, message: &MessageDescriptor) -> Vec<u32> {
    let live = |field: FieldDescriptor| match nested(&field) {
        Some(inner) => live_fields(pool, &inner).iter().map(|number| field.number() * NESTED + number).collect(),
        None if change_of(pool, &field) == "Live" => vec![field.number()],
        None => Vec::new(),
    };
    message.fields().flat_map(live).collect()
}

/// What people call each field: as the option that sets it, or as the field itself.
fn option_names(pool: &DescriptorPool, message: &MessageDescriptor) -> Vec<(u32, String)> {
    let option = pool.get_extension_by_name("efc.v1.option_name").expect("the option");
    let names = |field: FieldDescriptor| match nested(&field) {
        Some(inner) => {
            let inner = option_names(pool, &inner).into_iter();
            inner.map(|(number, name)| (field.number() * NESTED + number, name)).collect()
        }
        None => match field.options().get_extension(&option).as_str() {
            Some(name) if !name.is_empty() => vec![(field.number(), name.to_owned())],
            _ => vec![(field.number(), field.name().to_owned())],
        },
    };
    message.fields().flat_map(names).collect()
}

/// The message that a field holds; a list of them is one value.
fn nested(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) if !field.is_list() => Some(message),
        _ => None,
    }
}

/// Name of the variant of `Change` that a field has.
fn change_of(pool: &DescriptorPool, field: &FieldDescriptor) -> String {
    let option = pool.get_extension_by_name("efc.v1.change").expect("the option");
    let options = field.options();
    let number = options.get_extension(&option).as_enum_number().expect("an enum");
    let values = pool.get_enum_by_name("efc.v1.Change").expect("its type");
    let value = values.get_value(number).filter(|_| number != 0);
    let value = value.unwrap_or_else(|| panic!("{} does not say what a change of it takes", field.full_name()));
    // As prost names it.
    value.name().split('_').map(|word| word[..1].to_owned() + &word[1..].to_lowercase()).collect()
}
