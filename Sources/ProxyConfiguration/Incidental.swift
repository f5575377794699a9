// What is known of a thing without being part of it.

/// A property that makes no difference: two values that differ in nothing else are equal. So a line that moves in the file
/// changes nothing that is in force.
@propertyWrapper
public struct Incidental<Value: Sendable>: Sendable, Hashable {
    /// The value.
    public var wrappedValue: Value

    /// A value.
    public init(wrappedValue: Value) { self.wrappedValue = wrappedValue }

    /// Always true.
    public static func == (one: Incidental, other: Incidental) -> Bool { true }

    /// Adds nothing.
    public func hash(into hasher: inout Hasher) {}
}
