//! Generates the messages of `proto/efc.proto` with a protobuf compiler written in Rust, so that no `protoc` is needed.
fn main() {
    let files = protox::compile(["efc.proto"], ["../../proto"]).expect("proto/efc.proto compiles");
    prost_build::compile_fds(files).expect("messages are generated");
    println!("cargo:rerun-if-changed=../../proto/efc.proto");
}
