// The types of Auth.js bring those of browsers, whose streams lack what Bun's have.
interface ReadableStream<R> {
  text(): Promise<string>;
}
