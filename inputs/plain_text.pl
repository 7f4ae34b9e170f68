#!/usr/bin/perl
# SPDX-License-Identifier: Apache-2.0
# Turns documentation sources into plain English prose, one paragraph a line.
#
#   perl plain_text.pl < LIST      LIST holds lines of FORMAT <tab> INPUT <tab> OUTPUT
#
# FORMAT is pod (Perl) or rst (Sphinx). Headings and paragraphs stay; code samples,
# tables, markup and text that is not mostly English letters go. An input with under 500 characters
# of prose leaves no output. Prints the number of documents and bytes written. Needs no module.
use strict;
use warnings;

# Directives whose content is not prose.
my $opaque = qr/code-block|code|sourcecode|literalinclude|doctest|testcode|testoutput|testsetup|
                highlight|productionlist|index|toctree|parsed-literal|math|table|csv-table|
                list-table|image|figure|raw|role|opcode|audit-event|tabularcolumns|
                module|currentmodule|moduleauthor|sectionauthor|include|contents|ifconfig/x;

my %inline = (pod => \&pod_inline, rst => \&rst_inline);
my %blocks = (pod => \&pod_blocks, rst => \&rst_blocks);
my ($documents, $bytes) = (0, 0);
my %seen;

while (my $line = <STDIN>) {
    chomp $line;
    my ($format, $input, $output) = split /\t/, $line;
    die "$0: unknown format in: $line\n" unless defined $output && $blocks{$format};
    my $text = read_file($input);
    my @paragraphs;
    for my $block ($blocks{$format}->($text)) {
        my ($kind, $paragraph) = @$block;
        $paragraph = $inline{$format}->($paragraph);
        $paragraph =~ s/\s+/ /g;
        $paragraph =~ s/^ | $//g;
        next unless is_prose($kind, $paragraph);
        next if $kind eq 'text' && length($paragraph) > 60 && $seen{$paragraph}++;
        push @paragraphs, $paragraph;
    }
    my $prose = join '', map { "$_\n" } @paragraphs;
    next if length($prose) < 500;
    open my $out, '>', $output or die "$0: cannot write $output: $!\n";
    print $out $prose;
    close $out or die "$0: cannot write $output: $!\n";
    ++$documents;
    $bytes += length $prose;
}
print "$documents $bytes\n";

sub read_file {
    my ($path) = @_;
    open my $in, '<', $path or die "$0: cannot read $path: $!\n";
    local $/;
    my $text = <$in> // '';
    $text =~ s/\r\n?/\n/g;
    $text =~ s/\xe2\x80[\x98\x99]/'/g;       # curly quotes and dashes in UTF-8
    $text =~ s/\xe2\x80[\x9c\x9d]/"/g;
    $text =~ s/\xe2\x80[\x93\x94]/-/g;
    return $text;
}

# Mostly letters, mostly ASCII, and long enough to say something.
sub is_prose {
    my ($kind, $paragraph) = @_;
    my $length = length $paragraph;
    return 0 if $length < ($kind eq 'heading' ? 3 : 25);
    my $letters = () = $paragraph =~ /[A-Za-z ,.]/g;
    my $foreign = () = $paragraph =~ /[^\x20-\x7e]/g;
    return $letters >= 0.85 * $length && $foreign <= 0.01 * $length;
}

sub pod_blocks {
    my ($text) = @_;
    my (@blocks, $skipped_until);
    for my $block (split /\n(?:[ \t]*\n)+/, $text) {
        $block =~ s/^\n+//;
        if (defined $skipped_until) {
            undef $skipped_until if $block =~ /^=end\b/;
        } elsif ($block =~ /^=begin\b/) {
            $skipped_until = 1;
        } elsif ($block =~ /^=head\d\s+(.*)/s) {
            push @blocks, ['heading', $1];
        } elsif ($block =~ /^=item\s+(.*)/s) {
            push @blocks, ['text', $1];
        } elsif ($block !~ /^[=\s]/) {
            push @blocks, ['text', $block];
        }
    }
    return @blocks;
}

sub pod_inline {
    my ($text) = @_;
    my %escape = (lt => '<', gt => '>', sol => '/', verbar => '|', amp => '&', quot => '"');
    $text =~ s/^(?:\*|\d+\.?)\s+//;
    $text =~ s/\b[XZ]<[^<>]*>//g;
    $text =~ s/\b[BCFILS](<<+)\s+(.*?)\s+>>+/$2/gs;
    1 while $text =~ s/\b([BCFILSE])<([^<>]*)>/pod_code($1, $2, \%escape)/ge;
    $text =~ tr/\x01\x02/<>/;
    return $text;
}

sub pod_code {
    my ($code, $content, $escape) = @_;
    if ($code eq 'E') {
        my $character = $escape->{$content} // '?';
        $character =~ tr/<>/\x01\x02/;
        return $character;
    }
    if ($code eq 'L') {
        return $1 if $content =~ /^([^|]+)\|/;
        return "$2 in $1" if $content =~ m{^([\w:]+)/"?([^"]+)"?$};
        $content =~ s{^/?"?([^"]*)"?$}{$1};
    }
    return $content;
}

sub indent_of {
    my ($line) = @_;
    $line =~ /^([ \t]*)/;
    (my $space = $1) =~ s/\t/        /g;
    return length $space;
}

sub rst_blocks {
    my ($text) = @_;
    my (@blocks, @lines, $skip_deeper_than);
    my $flush = sub {
        push @blocks, ['text', join ' ', @lines] if @lines;
        @lines = ();
    };
    my @all = split /\n/, $text;
    for my $i (0 .. $#all) {
        my $line = $all[$i];
        if ($line =~ /^\s*$/) { $flush->(); next }
        my $indent = indent_of($line);
        if (defined $skip_deeper_than) {
            next if $indent > $skip_deeper_than;
            undef $skip_deeper_than;
        }
        my $next = $all[$i + 1] // '';
        if ($line =~ /^\s*([=\-*~^"#+.`:])\1{2,}\s*$/ || $line =~ /^\s*[=+|-]{2,}[ =+|-]*$/) {
            $flush->();
        } elsif ($next =~ /^([=\-*~^"#+.`:])\1{2,}\s*$/ && $indent == 0) {
            $flush->();
            push @blocks, ['heading', $line];
        } elsif ($line =~ /^\s*\.\.(\s|$)/) {
            $flush->();
            $skip_deeper_than = $indent
                if $line =~ /^\s*\.\.\s+(?:$opaque)::/ || $line !~ /::/ || $line =~ /^\s*\.\.\s+_/;
        } elsif ($line =~ /^\s*(?:>>>|\.\.\.\s|\|)/ || (!@lines && $line =~ /^\s*:[\w -]+:(?!`)/)) {
            $flush->();
            $skip_deeper_than = $indent if $line =~ /^\s*:/;
        } else {
            $flush->() if $line =~ /^\s*(?:[*-]|#\.|\d+\.)\s/;
            push @lines, $line;
            if ($line =~ /::\s*$/ && $next =~ /^\s*$/) {
                $lines[-1] =~ s/::\s*$/:/;
                $flush->();
                $skip_deeper_than = $indent;
            }
        }
    }
    $flush->();
    return @blocks;
}

sub rst_inline {
    my ($text) = @_;
    $text =~ s/^\s*(?:[*-]|#\.|\d+\.)\s+//;
    $text =~ s/:[\w:-]+:`!?~?([^`<]*?)\s*(?:<[^`>]*>)?`/$1/g;
    $text =~ s/``(.*?)``/$1/g;
    $text =~ s/`([^`<]*?)\s*<[^`>]*>`__?/$1/g;
    $text =~ s/`([^`]*)`_{0,2}/$1/g;
    $text =~ s/\*\*([^*]+)\*\*/$1/g;
    $text =~ s/\*([^*\s][^*]*)\*/$1/g;
    $text =~ s/\s*\[[#\d]\w*\]_//g;
    $text =~ s/\|\w+\|//g;
    $text =~ s/\\ ?//g;
    return $text;
}
