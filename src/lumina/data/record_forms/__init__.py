"""What one record of a data file means; a file for each form of record.

A form is a module here with a `FORM` (`form.Form`). `reader.RecordReader` finds the
form of a record, or uses the one that `--format` names, and gives a text or a
conversation.
"""
