"""What schemathesis must be told: bodies of this type are plain text."""

import schemathesis

schemathesis.serializer.alias("application/secevent+jwt", "text/plain")
